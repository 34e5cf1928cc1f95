use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::domain::Domain;
use crate::types::{Lease, PoolInfo};
use crate::{Error, Result, blocking};

/// Seconds between questions whether the daemon lives, and how many may stay unanswered.
const KEEP_ALIVE: (i32, u32) = (5, 6);

/// A connection to a libvirt daemon. Clones share it.
#[derive(Clone, Debug)]
pub struct Connection {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `None` only while it is being dropped.
    blocking: Option<Arc<blocking::Connection>>,
    dead: AtomicBool,
    limit: Duration,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let Some(connection) = self.blocking.take() else { return };
        if *self.dead.get_mut() {
            // Saying goodbye to a daemon that does not answer would wait for it.
            std::mem::forget(connection);
            return;
        }
        let _ = std::thread::Builder::new().name("libvirt close".into()).spawn(move || drop(connection));
    }
}

/// Runs `work` on a thread of its own and waits at most `limit` for it. A thread that is late is given up.
async fn on_thread<T: Send + 'static>(
    call: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, answer) = oneshot::channel();
    let run = move || {
        let _ = sender.send(work()); // nobody waits any more
    };
    // Not the runtime's own threads: it waits for them when it ends.
    let thread = std::thread::Builder::new().name("libvirt call".into()).spawn(run);
    thread.map_err(|e| Error::Thread(e.to_string()))?;
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(Error::Thread(format!("the thread that called {call} broke off"))),
        Err(_) => Err(Error::Timeout { call, after: limit }),
    }
}

impl Connection {
    /// Connects. Each call then has `limit` to be answered. Nobody is asked for a user or a password.
    ///
    /// # Errors
    /// libvirt's, or [`Error::Timeout`].
    pub async fn open(uri: &str, limit: Duration) -> Result<Self> {
        let uri = uri.to_owned();
        let connection = on_thread("virConnectOpen", limit, move || {
            let connection = blocking::Connection::open(&uri)?;
            if let Err(error) = connection.keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1) {
                tracing::debug!("no keep-alive: {error}");
            }
            Ok(connection)
        });
        let blocking = Some(Arc::new(connection.await?));
        Ok(Self { shared: Arc::new(Shared { blocking, dead: AtomicBool::new(false), limit }) })
    }

    /// The time that each call has.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.shared.limit
    }

    /// Whether a call was not answered in time. Every further one then ends at once.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.shared.dead.load(Ordering::Acquire)
    }

    /// Runs any blocking calls on a thread of their own, with a limit of their own.
    ///
    /// # Errors
    /// Those of `work`, [`Error::Timeout`], [`Error::Dead`].
    pub async fn run<T: Send + 'static>(
        &self,
        call: &'static str,
        limit: Duration,
        work: impl FnOnce(&blocking::Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let connection = match &self.shared.blocking {
            Some(connection) if !self.is_dead() => connection.clone(),
            _ => return Err(Error::Dead),
        };
        let result = on_thread(call, limit, move || work(&connection)).await;
        if matches!(result, Err(Error::Timeout { .. })) {
            self.shared.dead.store(true, Ordering::Release);
        }
        result
    }

    async fn call<T: Send + 'static>(
        &self,
        call: &'static str,
        work: impl FnOnce(&blocking::Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(call, self.shared.limit, work).await
    }

    fn domain(&self, domain: blocking::Domain) -> Domain {
        Domain::new(self.clone(), domain)
    }

    /// Whether the daemon answers now.
    pub async fn is_alive(&self) -> bool {
        let alive = self.call("virConnectGetLibVersion", |c| Ok(c.is_alive()? && c.libvirt_version().is_ok())).await;
        alive.unwrap_or(false)
    }

    /// The name of the host.
    ///
    /// # Errors
    /// libvirt's, or those of the limit; the same for all below.
    pub async fn host_name(&self) -> Result<String> {
        self.call("virConnectGetHostname", blocking::Connection::host_name).await
    }

    /// The version of libvirt at the other end: major, minor, release.
    ///
    /// # Errors
    /// As above.
    pub async fn libvirt_version(&self) -> Result<(u64, u64, u64)> {
        self.call("virConnectGetLibVersion", blocking::Connection::libvirt_version).await
    }

    /// The version of the hypervisor: major, minor, release.
    ///
    /// # Errors
    /// As above.
    pub async fn hypervisor_version(&self) -> Result<(u64, u64, u64)> {
        self.call("virConnectGetVersion", blocking::Connection::hypervisor_version).await
    }

    /// What the host can run, as XML.
    ///
    /// # Errors
    /// As above.
    pub async fn capabilities(&self) -> Result<String> {
        self.call("virConnectGetCapabilities", blocking::Connection::capabilities).await
    }

    /// Every domain, running or not.
    ///
    /// # Errors
    /// As above.
    pub async fn list_all_domains(&self) -> Result<Vec<Domain>> {
        let all = self.call("virConnectListAllDomains", blocking::Connection::list_all_domains).await?;
        Ok(all.into_iter().map(|domain| self.domain(domain)).collect())
    }

    /// The domain of this name.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`](crate::Code::NO_DOMAIN) if there is none.
    pub async fn domain_by_name(&self, name: &str) -> Result<Domain> {
        let name = name.to_owned();
        let found = self.call("virDomainLookupByName", move |c| c.domain_by_name(&name)).await?;
        Ok(self.domain(found))
    }

    /// The domain of this UUID.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`](crate::Code::NO_DOMAIN) if there is none.
    pub async fn domain_by_uuid(&self, uuid: &str) -> Result<Domain> {
        let uuid = uuid.to_owned();
        let found = self.call("virDomainLookupByUUIDString", move |c| c.domain_by_uuid(&uuid)).await?;
        Ok(self.domain(found))
    }

    /// The running domain of this number.
    ///
    /// # Errors
    /// [`Code::NO_DOMAIN`](crate::Code::NO_DOMAIN) if there is none.
    pub async fn domain_by_id(&self, id: i32) -> Result<Domain> {
        let found = self.call("virDomainLookupByID", move |c| c.domain_by_id(id)).await?;
        Ok(self.domain(found))
    }

    /// Makes the host know a domain, or know it differently.
    ///
    /// # Errors
    /// As above.
    pub async fn define(&self, xml: &str) -> Result<Domain> {
        let xml = xml.to_owned();
        let made = self.call("virDomainDefineXMLFlags", move |c| c.define(&xml)).await?;
        Ok(self.domain(made))
    }

    /// The addresses that the networks of libvirt gave away.
    ///
    /// # Errors
    /// As above.
    pub async fn leases(&self) -> Result<Vec<Lease>> {
        self.call("virNetworkGetDHCPLeases", blocking::Connection::leases).await
    }

    /// The names of the networks.
    ///
    /// # Errors
    /// As above.
    pub async fn networks(&self) -> Result<Vec<String>> {
        self.call("virConnectListAllNetworks", blocking::Connection::networks).await
    }

    /// The storage pools.
    ///
    /// # Errors
    /// As above.
    pub async fn pools(&self) -> Result<Vec<PoolInfo>> {
        self.call("virConnectListAllStoragePools", blocking::Connection::pools).await
    }

    /// The volumes of a storage pool: name and path.
    ///
    /// # Errors
    /// As above.
    pub async fn volumes(&self, pool: &str) -> Result<Vec<(String, String)>> {
        let pool = pool.to_owned();
        self.call("virStoragePoolListAllVolumes", move |c| c.volumes(&pool)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_hangs_is_given_up_and_every_further_one_ends_at_once() {
        let connection = Connection::open("test:///default", Duration::from_secs(20)).await.unwrap();
        let hang = |_: &blocking::Connection| {
            std::thread::sleep(Duration::from_secs(600));
            Ok(())
        };
        let late = connection.run("a call", Duration::from_millis(50), hang).await.unwrap_err();
        assert_eq!(late.to_string(), "libvirt did not answer a call within 50ms");
        assert!(late.is_lost() && connection.is_dead());
        assert!(matches!(connection.host_name().await, Err(Error::Dead)));
    }

    #[tokio::test]
    async fn errors_bear_the_code_and_the_text_of_libvirt() {
        let connection = Connection::open("test:///default", Duration::from_secs(20)).await.unwrap();
        let missing = connection.domain_by_name("nobody").await.unwrap_err();
        assert!(missing.is(crate::Code::NO_DOMAIN) && !missing.is_lost(), "{missing:?}");
        assert_eq!(missing.to_string(), "Domain not found");
        let nothing = Connection::open("nonsense:///", Duration::from_secs(20)).await.unwrap_err();
        assert!(nothing.code().is_some(), "{nothing:?}");
        assert!(matches!(connection.domain_by_name("a\0b").await, Err(Error::Zero { .. })));
    }

    #[tokio::test]
    async fn the_built_in_domain_is_listed_described_and_found_by_all_its_names() {
        let connection = Connection::open("test:///default", Duration::from_secs(20)).await.unwrap();
        let all = connection.list_all_domains().await.unwrap();
        let domain = all.first().unwrap();
        assert_eq!(domain.name(), "test");
        assert_eq!(connection.domain_by_uuid(domain.uuid()).await.unwrap().name(), "test");
        assert_eq!(connection.domain_by_id(1).await.unwrap().uuid(), domain.uuid());
        assert_eq!(domain.state().await.unwrap().state, crate::State::Running);
        assert!(domain.xml(crate::XmlKind::default()).await.unwrap().contains("<name>test</name>"));
        assert!(!connection.pools().await.unwrap().is_empty());
        assert!(connection.is_alive().await);
    }
}
