//! The brokers that `tests/servers/with-brokers.sh` started.
//!
//! Takes what that script exports; gives addresses and commands. Blocks on those commands. Anything missing fails the
//! test with the way to start it.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use asya_transport::rabbitmq::RabbitMqConfig;

const HOW: &str = "start brokers with: tests/servers/with-brokers.sh 3.10 4.0 4.3 --tls -- \
                   cargo test -p asya-transport --features broker-tests --test rabbitmq";

/// One broker, used together with others.
#[derive(Clone, Copy, Debug)]
pub struct Broker {
    pub version: &'static str,
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: {HOW}"))
}

impl Broker {
    pub const V3_10: Self = Self { version: "3.10" };
    pub const V4_0: Self = Self { version: "4.0" };
    pub const V4_3: Self = Self { version: "4.3" };

    fn suffixed(self, name: &str) -> String {
        variable(&format!("{name}_{}", self.version.replace('.', "_")))
    }

    fn listed(self, name: &str) -> String {
        let list = variable(name);
        let prefix = format!("{}=", self.version);
        let found = list.split(' ').find_map(|pair| pair.strip_prefix(&prefix));
        found.unwrap_or_else(|| panic!("{name} names no {}: {HOW}", self.version)).to_owned()
    }

    pub fn config(self) -> RabbitMqConfig {
        RabbitMqConfig::from_url(&self.listed("ASYA_TEST_AMQP_URLS")).unwrap()
    }

    /// The address with TLS, without a certificate authority to trust.
    pub fn tls_url(self) -> String {
        self.listed("ASYA_TEST_AMQPS_URLS")
    }

    /// The certificate authority of every broker.
    pub fn ca_file() -> String {
        variable("ASYA_TEST_CA_FILE")
    }

    /// Runs `rabbitmqctl` and gives what it prints.
    pub fn ctl(self, arguments: &[&str]) -> String {
        let command = self.suffixed("ASYA_TEST_RABBITMQCTL");
        let mut words = command.split(' ');
        let output = Command::new(words.next().unwrap()).args(words).args(arguments).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command} {arguments:?}: {said}");
        said
    }

    /// Kills the broker and starts it again on its data.
    pub fn restart(self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/servers/rabbitmq.py");
        let directory = self.suffixed("ASYA_TEST_BROKER_DIR");
        let run = |arguments: &[&str]| {
            let status = Command::new("python3").arg(script).args(arguments).status().unwrap();
            assert!(status.success(), "rabbitmq.py {arguments:?}: {status}");
        };
        // The name of a quorum queue is in a table that the broker writes out half a second after the last change; one
        // that is killed before loses the queue's messages (https://github.com/rabbitmq/rabbitmq-server/issues/15725).
        // Nothing tells when it is done, so this is the one wait for time: it makes the broker keep what it confirmed.
        std::thread::sleep(Duration::from_secs(2));
        run(&["stop", &directory, "--keep"]);
        // It has to outlive this test, and ends with whatever started it all.
        let owner = std::os::unix::process::parent_id().to_string();
        run(&["start", self.version, "--data", &directory, "--owner", &owner]);
    }

    fn lock(self) -> &'static RwLock<()> {
        static LOCKS: OnceLock<Mutex<BTreeMap<&str, &RwLock<()>>>> = OnceLock::new();
        let mut locks = LOCKS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        locks.entry(self.version).or_insert_with(|| Box::leak(Box::default()))
    }

    /// Keeps those away who would hurt the broker for all.
    pub fn share(self) -> Lease {
        Lease::Shared { _guard: self.lock().read().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Keeps everybody away.
    pub fn own(self) -> Lease {
        Lease::Owned { _guard: self.lock().write().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// Leave to use a broker.
pub enum Lease {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Owned { _guard: RwLockWriteGuard<'static, ()> },
}

/// The beginning of queue names that nothing has used before.
pub fn fresh_prefix() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}-", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
