use std::io::{BufRead, IsTerminal};

use zeroize::Zeroizing;

use super::args::LoginArgs;
use super::output;
use crate::config::{ConnectionUri, forget_password, keyring_available, store_password};
use crate::error::{Context, Error, Family, Result};

pub(super) fn login(args: &LoginArgs) -> Result<()> {
    let uri: ConnectionUri = args.uri.parse()?;
    if !keyring_available() {
        return Err(Error::new(Family::Unsupported, "the kernel keyring cannot be used here")
            .hint("use --password-file FILE instead"));
    }
    let password = if std::io::stdin().is_terminal() {
        Zeroizing::new(rpassword::prompt_password("Password: ").failed(|| "cannot ask for the password".into())?)
    } else {
        let mut line = Zeroizing::new(String::new());
        std::io::stdin().lock().read_line(&mut line).failed(|| "cannot read the password".into())?;
        Zeroizing::new(line.trim_end_matches(['\n', '\r']).to_owned())
    };
    if password.is_empty() {
        return Err(Error::new(Family::Usage, "the password is empty"));
    }
    store_password(&uri, &password)?;
    output::line(&format!("The password for {} is in the kernel keyring until the machine restarts.", uri.place()));
    Ok(())
}

pub(super) fn logout(args: &LoginArgs) -> Result<()> {
    let uri: ConnectionUri = args.uri.parse()?;
    let known = forget_password(&uri)?;
    output::line(if known { "The password is forgotten." } else { "There was no password to forget." });
    Ok(())
}
