//! The login: its cookie, and how it is renewed when the server forgets it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderValue, SET_COOKIE};
use zeroize::{Zeroize, Zeroizing};

use crate::client::Client;
use crate::error::Error;
use crate::xml::{self, Element};

/// A server that forgets us faster than this has another problem, and each login may open a session that counts
/// against its limit.
const LOGIN_AT_MOST_EVERY: Duration = Duration::from_secs(60);

/// A logout is a courtesy: the server forgets idle sessions by itself.
const LOGOUT_TIME: Duration = Duration::from_secs(5);

/// What a client knows about its login.
#[derive(Default)]
pub(crate) struct Session {
    cookie: Mutex<Option<HeaderValue>>,
    /// Counts logins. (Cookies would do, if every server gave out new ones.)
    logins: AtomicU64,
    credentials: Mutex<Option<Credentials>>,
    /// When the last renewal was tried. Held during one, so that many failed calls cause one login.
    renewal: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct Credentials {
    user: Zeroizing<String>,
    password: Zeroizing<String>,
}

impl Session {
    /// The cookie to send, as the server wrote it.
    pub(crate) fn cookie(&self) -> Option<HeaderValue> {
        lock(&self.cookie).clone()
    }

    /// Which login the cookie is from.
    pub(crate) fn generation(&self) -> u64 {
        self.logins.load(Ordering::Acquire)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// Logs in. User and password are kept in memory, erased at the end, for one new login per minute should the server
    /// drop the session.
    ///
    /// # Errors
    /// [`Error::InvalidLogin`] must not be answered by trying again: accounts lock.
    pub async fn login(&self, user: &str, password: &str) -> Result<(), Error> {
        let credentials =
            Credentials { user: Zeroizing::new(user.to_owned()), password: Zeroizing::new(password.to_owned()) };
        self.log_in_with(&credentials).await?;
        *lock(&self.session().credentials) = Some(credentials);
        Ok(())
    }

    async fn log_in_with(&self, credentials: &Credentials) -> Result<(), Error> {
        let manager = self.manager("sessionManager")?;
        let mut request = Element::new("Login")
            .with(Element::reference("_this", &manager))
            .with(Element::leaf("userName", credentials.user.as_str()))
            .with(Element::leaf("password", credentials.password.as_str()));
        let body = Zeroizing::new(xml::envelope(&request).into_bytes());
        request.children.iter_mut().for_each(|child| child.text.zeroize());
        let (_, headers) = self.post("Login", None, Bytes::from_owner(body)).await?;
        let cookie = session_cookie(&headers)
            .ok_or_else(|| Error::protocol("Login", "a session cookie", "an answer without one"))?;
        *lock(&self.session().cookie) = Some(cookie);
        self.session().logins.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Ends the session and forgets the password. Never fails, never takes longer than 5 s.
    pub async fn logout(&self) {
        *lock(&self.session().credentials) = None;
        if self.session().cookie().is_none() {
            return;
        }
        if let Ok(manager) = self.manager("sessionManager") {
            let request = Element::new("Logout").with(Element::reference("_this", &manager));
            match tokio::time::timeout(LOGOUT_TIME, self.call_once(&request, false)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "logout"),
                Err(_) => tracing::debug!("logout: no answer in time"),
            }
        }
        *lock(&self.session().cookie) = None;
    }

    /// Runs `work`; if the server says that we are not logged in, logs in again and runs it once more. `work` must begin
    /// from the beginning: views and page tokens die with their session.
    pub(crate) async fn in_session<T, W, F>(&self, work: W) -> Result<T, Error>
    where
        W: Fn() -> F,
        F: Future<Output = Result<T, Error>>,
    {
        let before = self.session().generation();
        match work().await {
            Err(error) if error.is_not_authenticated() => {
                self.renew(before, error).await?;
                work().await
            }
            done => done,
        }
    }

    /// Logs in again unless somebody did since login number `stale`. `refusal` is returned when that is not possible.
    pub(crate) async fn renew(&self, stale: u64, refusal: Error) -> Result<(), Error> {
        let session = self.session();
        let mut last = session.renewal.lock().await;
        if session.generation() != stale {
            return Ok(());
        }
        let Some(credentials) = lock(&session.credentials).clone() else { return Err(refusal) };
        if last.is_some_and(|at| at.elapsed() < LOGIN_AT_MOST_EVERY) {
            return Err(refusal);
        }
        tracing::info!("the server forgot the session: logging in again");
        *last = Some(Instant::now());
        let done = self.log_in_with(&credentials).await;
        if matches!(done, Err(Error::InvalidLogin { .. })) {
            *lock(&session.credentials) = None;
        }
        done
    }
}

/// The `name=value` of the session's cookie, byte for byte: real servers put the value in quotes and want them back.
fn session_cookie(headers: &HeaderMap) -> Option<HeaderValue> {
    let raw = headers.get_all(SET_COOKIE).iter().map(HeaderValue::as_bytes);
    let mut pairs = raw.filter_map(|raw| raw.split(|b| *b == b';').next()).map(<[u8]>::trim_ascii);
    let pair = pairs.find(|pair| pair.starts_with(b"vmware_soap_session="))?;
    let mut value = HeaderValue::from_bytes(pair).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_kept_byte_for_byte() {
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, HeaderValue::from_static("other=1"));
        headers.append(
            SET_COOKIE,
            HeaderValue::from_static("vmware_soap_session=\"52 8a-b%2F=\"; Path=/; HttpOnly; Secure"),
        );
        assert_eq!(session_cookie(&headers).unwrap(), "vmware_soap_session=\"52 8a-b%2F=\"");
        headers.clear();
        assert_eq!(session_cookie(&headers), None);
    }
}
