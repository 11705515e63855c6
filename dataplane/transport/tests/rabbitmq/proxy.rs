//! A network between a client and its broker that can be cut or go silent.
//!
//! Takes TCP connections on a port of its own and carries their bytes; [`Proxy::cut`] breaks those that are open,
//! [`Proxy::stall`] lets nothing through while they stay open. Blocks only its own threads, which end with it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: (String, u16),
    open: Mutex<Vec<TcpStream>>,
    ended: AtomicBool,
    stalled: Mutex<bool>,
    moved: Condvar,
}

impl Proxy {
    pub fn new(host: &str, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Arc::new(Shared {
            target: (host.to_owned(), port),
            open: Mutex::default(),
            ended: AtomicBool::new(false),
            stalled: Mutex::new(false),
            moved: Condvar::new(),
        });
        let proxy = Self { port: listener.local_addr().unwrap().port(), shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                if let (Ok(client), Ok(broker)) = (client, TcpStream::connect(&shared.target)) {
                    shared.carry(client, broker);
                }
            }
        });
        proxy
    }

    /// Breaks what is open.
    pub fn cut(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            // Already broken will do as well.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets nothing through, or everything again.
    pub fn stall(&self, stalled: bool) {
        *self.shared.stalled.lock().unwrap() = stalled;
        self.shared.moved.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.stall(false);
        self.cut();
        // The listener is woken to see that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn carry(self: &Arc<Self>, client: TcpStream, broker: TcpStream) {
        for stream in [&client, &broker] {
            stream.set_nodelay(true).unwrap();
            self.open.lock().unwrap().push(stream.try_clone().unwrap());
        }
        for (from, to) in [(client.try_clone(), broker.try_clone()), (Ok(broker), Ok(client))] {
            let (shared, mut from, mut to) = (Arc::clone(self), from.unwrap(), to.unwrap());
            std::thread::spawn(move || {
                let mut bytes = vec![0; 256 * 1024];
                while let Ok(read @ 1..) = from.read(&mut bytes) {
                    let stalled = shared.stalled.lock().unwrap();
                    drop(shared.moved.wait_while(stalled, |stalled| *stalled).unwrap());
                    if to.write_all(&bytes[..read]).is_err() {
                        break;
                    }
                }
                // Either end may be gone already.
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    }
}
