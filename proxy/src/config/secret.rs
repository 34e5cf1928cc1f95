//! Where a password comes from: a file, the environment, the kernel's keyring, or the terminal. Never the command line.

use std::fs;
use std::io::IsTerminal;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use linux_keyutils::{KeyRing, KeyRingIdentifier};
use zeroize::Zeroizing;

use super::ConnectionUri;
use crate::error::{Context, Error, Family, Result};

/// A password. Wiped from memory when dropped; prints as nothing.
pub type Password = Zeroizing<String>;

/// A password file is one line; more than this is a wrong file.
const MAX_PASSWORD_FILE: u64 = 4096;

/// The ways that are open for this run, in the order in which they are tried.
#[derive(Clone, Debug, Default)]
pub struct PasswordSources {
    /// Given by the caller (a lab knows its own; the VCB tools take `-p`).
    pub given: Option<Password>,
    /// A file whose first line is the password.
    pub file: Option<PathBuf>,
    /// The value of `STILLFRAME_PASSWORD`.
    pub environment: Option<Password>,
    /// Whether a terminal may be asked.
    pub may_prompt: bool,
}

impl PasswordSources {
    /// The password for `connection`.
    ///
    /// # Errors
    /// [`Family::Usage`] if no source has one.
    pub fn password(&self, connection: &ConnectionUri) -> Result<Password> {
        if let Some(given) = &self.given {
            return Ok(given.clone());
        }
        if let Some(file) = self.file.as_deref().or(connection.password_file.as_deref()) {
            return read_file(file);
        }
        if let Some(password) = &self.environment {
            return Ok(password.clone());
        }
        if let Some(password) = from_keyring(connection) {
            return Ok(password);
        }
        if self.may_prompt && std::io::stdin().is_terminal() {
            return prompt(connection);
        }
        let user = connection.user.as_deref().unwrap_or_default();
        Err(Error::new(Family::Usage, format!("there is no password for {user}@{}", connection.place()))
            .hint("use --password-file FILE, STILLFRAME_PASSWORD, `stillframe login URI`, or run it on a terminal"))
    }
}

fn read_file(path: &Path) -> Result<Password> {
    let usage = |what: String| Error::new(Family::Usage, what);
    let metadata = fs::metadata(path)
        .map_err(|e| usage(format!("cannot read the password file {}", path.display())).caused_by(e))?;
    if metadata.len() > MAX_PASSWORD_FILE {
        return Err(usage(format!("the password file {} is longer than 4096 bytes", path.display())));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!("the password file {} can be read by others; chmod 600 it", path.display());
    }
    let text = fs::read_to_string(path)
        .map_err(|e| usage(format!("cannot read the password file {}", path.display())).caused_by(e))?;
    let text = Zeroizing::new(text);
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(usage(format!("the password file {} is empty", path.display())));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

fn prompt(connection: &ConnectionUri) -> Result<Password> {
    let user = connection.user.as_deref().unwrap_or_default();
    let answer = rpassword::prompt_password(format!("Password for {user}@{}: ", connection.host))
        .failed(|| "cannot ask for the password".into())?;
    Ok(Zeroizing::new(answer))
}

/// The name under which the keyring holds the password of a connection: the user and the server, no options.
fn key_name(connection: &ConnectionUri) -> String {
    format!("stillframe:{}@{}", connection.user.as_deref().unwrap_or_default(), connection.place())
}

/// The user keyring lives as long as the user's processes or the machine, is never written to disk, and needs no daemon,
/// which fits a proxy in a data centre.
fn user_keyring() -> Option<KeyRing> {
    KeyRing::from_special_id(KeyRingIdentifier::User, true).ok()
}

fn from_keyring(connection: &ConnectionUri) -> Option<Password> {
    let key = user_keyring()?.search(&key_name(connection)).ok()?;
    let bytes = Zeroizing::new(key.read_to_vec().ok()?);
    Some(Zeroizing::new(std::str::from_utf8(&bytes).ok()?.to_owned()))
}

/// Whether this kernel lets us use its keyring.
#[must_use]
pub fn keyring_available() -> bool {
    user_keyring().is_some()
}

/// Puts the password of a connection into the user's kernel keyring.
///
/// # Errors
/// [`Family::Failed`] if the kernel refuses.
pub fn store_password(connection: &ConnectionUri, password: &Password) -> Result<()> {
    let ring = user_keyring().ok_or_else(no_keyring)?;
    ring.add_key(&key_name(connection), password.as_bytes())
        .map(|_| ())
        .failed(|| "the kernel keyring does not take the password".into())
}

/// Takes the password of a connection out of the keyring; answers whether there was one.
///
/// # Errors
/// [`Family::Failed`] if the kernel refuses.
pub fn forget_password(connection: &ConnectionUri) -> Result<bool> {
    let ring = user_keyring().ok_or_else(no_keyring)?;
    match ring.search(&key_name(connection)) {
        Ok(key) => ring.unlink_key(key).map(|()| true).failed(|| "cannot take the password out of the keyring".into()),
        Err(_) => Ok(false),
    }
}

fn no_keyring() -> Error {
    Error::new(Family::Unsupported, "the kernel keyring cannot be used here").hint("use --password-file FILE instead")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> ConnectionUri {
        "esx://root@host.invalid/".parse().unwrap()
    }

    #[test]
    fn the_first_line_of_a_password_file_is_the_password_and_blanks_in_it_count() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pw");
        fs::write(&file, " a b \nsecond\n").unwrap();
        let sources = PasswordSources { file: Some(file), ..Default::default() };
        assert_eq!(sources.password(&connection()).unwrap().as_str(), " a b ");
    }

    #[test]
    fn no_source_is_a_usage_error_that_names_the_ways() {
        let err = PasswordSources::default().password(&connection()).unwrap_err();
        assert_eq!(err.family(), Family::Usage);
        assert!(err.line().contains("--password-file"), "{}", err.line());
    }
}
