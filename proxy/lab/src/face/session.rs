//! Sessions: who is logged in, and what dies with the login (views, filters, pages of results).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use uuid::Uuid;

use super::collector::Found;
use super::inventory::View;
use super::updates::Filter;
use super::value::{Object, Value};

/// The cookie's name.
const COOKIE: &str = "vmware_soap_session";

/// A login.
pub(super) struct Session {
    pub(super) user: String,
    key: String,
    login: Timestamp,
    active: Timestamp,
    used: Instant,
    calls: u64,
    /// Container views by id.
    pub(super) views: HashMap<String, View>,
    /// Filters of the property collector by id.
    pub(super) filters: HashMap<String, Filter>,
    /// Results that did not fit in one answer, by token.
    pub(super) pages: HashMap<String, Vec<Found>>,
    next: u64,
    /// The version of the last update set.
    pub(super) version: u64,
}

impl Session {
    fn new(user: &str) -> Self {
        let now = Timestamp::now();
        Self {
            user: user.to_owned(),
            key: Uuid::new_v4().to_string(),
            login: now,
            active: now,
            used: Instant::now(),
            calls: 0,
            views: HashMap::new(),
            filters: HashMap::new(),
            pages: HashMap::new(),
            next: 0,
            version: 0,
        }
    }

    /// A new id that is unique among all sessions.
    pub(super) fn new_id(&mut self, prefix: &str) -> String {
        self.next = self.next.saturating_add(1);
        format!("{prefix}{}-{}", self.key, self.next)
    }

    /// As `UserSession`.
    pub(super) fn value(&self) -> Value {
        Object::new("UserSession")
            .with("key", self.key.as_str())
            .with("userName", self.user.as_str())
            .with("fullName", self.user.as_str())
            .with("loginTime", Value::time(self.login))
            .with("lastActiveTime", Value::time(self.active))
            .with("locale", "en")
            .with("messageLocale", "en")
            .with("extensionSession", false)
            .with("ipAddress", "127.0.0.1")
            .with("userAgent", "")
            .with("callCount", Value::long(self.calls))
            .into()
    }
}

/// All sessions by the value of their cookie.
pub(super) struct Sessions {
    open: Mutex<HashMap<String, Session>>,
    idle: Duration,
}

impl Sessions {
    /// Sessions that are forgotten when nothing used them for `idle`.
    pub(super) fn new(idle: Duration) -> Self {
        Self { open: Mutex::default(), idle }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session; the cookie's value and the session itself as the API shows it.
    pub(super) fn open(&self, user: &str) -> (String, Value) {
        let cookie = Uuid::new_v4().to_string();
        let session = Session::new(user);
        let value = session.value();
        self.lock().insert(cookie.clone(), session);
        (cookie, value)
    }

    /// Marks the session as used. False if there is none, or it idled too long and is gone now.
    pub(super) fn touch(&self, cookie: &str) -> bool {
        let mut open = self.lock();
        let idle = self.idle;
        open.retain(|_, session| session.used.elapsed() < idle);
        let Some(session) = open.get_mut(cookie) else { return false };
        session.used = Instant::now();
        session.active = Timestamp::now();
        session.calls = session.calls.saturating_add(1);
        true
    }

    /// Whether a session with this `UserSession.key` is open.
    pub(super) fn is_active(&self, key: &str, user: &str) -> bool {
        self.lock().values().any(|session| session.key == key && session.user == user)
    }

    /// All sessions as the API shows them.
    pub(super) fn values(&self) -> Vec<Value> {
        self.lock().values().map(Session::value).collect()
    }

    /// Works with a session; `None` if it is gone.
    pub(super) fn with<T>(&self, cookie: &str, work: impl FnOnce(&mut Session) -> T) -> Option<T> {
        self.lock().get_mut(cookie).map(work)
    }

    pub(super) fn close(&self, cookie: &str) -> bool {
        self.lock().remove(cookie).is_some()
    }

    /// Forgets all sessions; how many there were.
    pub(super) fn close_all(&self) -> usize {
        let mut open = self.lock();
        let count = open.len();
        open.clear();
        count
    }
}

/// The session's cookie in a `Cookie` header, with or without quotes. Some clients send the attributes of `Set-Cookie` back.
pub(super) fn cookie_value(header: &str) -> Option<&str> {
    header.split(';').find_map(|part| {
        let (name, value) = part.trim().split_once('=')?;
        (name == COOKIE).then(|| value.trim_matches('"'))
    })
}

/// The `Set-Cookie` header for a session.
pub(super) fn set_cookie(value: &str) -> String {
    format!("{COOKIE}=\"{value}\"; Path=/; HttpOnly; Secure")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_found_quoted_or_bare_and_with_attributes() {
        let set = set_cookie("abc");
        assert_eq!(set, "vmware_soap_session=\"abc\"; Path=/; HttpOnly; Secure");
        for header in [set.as_str(), "vmware_soap_session=abc", "x=1; vmware_soap_session=\"abc\""] {
            assert_eq!(cookie_value(header), Some("abc"), "{header}");
        }
        assert_eq!(cookie_value("other=abc"), None);
    }

    #[test]
    fn an_idle_session_is_forgotten() {
        let sessions = Sessions::new(Duration::from_millis(30));
        let (cookie, _) = sessions.open("u");
        assert!(sessions.touch(&cookie));
        std::thread::sleep(Duration::from_millis(60));
        assert!(!sessions.touch(&cookie));
        assert!(!sessions.close(&cookie));
    }
}
