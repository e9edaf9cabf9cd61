//! One serving thread: a single-threaded runtime with everything that its requests need.

use super::{Limits, balancer::Balancers, connection};
use crate::{
    acme::challenges::Challenges,
    table::ServingTable,
    upstream::{pool::Pool, streams::Streams},
};
use rustls::ServerConfig;
use std::{
    cell::RefCell,
    io,
    net::{IpAddr, TcpStream},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often connections that nobody needs are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// What all threads are given.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) challenges: Arc<Challenges>,
    pub(super) balancers: Arc<Balancers>,
    pub(super) limits: Limits,
}

/// A visitor's connection, as it came from the listening socket.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: IpAddr,
    pub(super) secure: bool,
}

/// What a thread is told.
enum Order {
    Serve(Accepted),
    Install(Arc<ServingTable>, oneshot::Sender<()>),
    Answer(oneshot::Sender<()>),
    ShutDown(Duration, oneshot::Sender<()>),
}

/// A running thread.
#[derive(Debug)]
pub(super) struct Thread {
    orders: mpsc::UnboundedSender<Order>,
}

impl Thread {
    pub(super) fn start(index: usize, setting: Setting, table: Arc<ServingTable>) -> io::Result<Self> {
        let (orders, received) = mpsc::unbounded_channel();
        std::thread::Builder::new().name(format!("ingress-{index}")).spawn(move || {
            match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                Ok(runtime) => runtime.block_on(run(received, setting, table)),
                Err(error) => tracing::error!(%error, "cannot start a serving thread"),
            }
        })?;
        Ok(Self { orders })
    }

    pub(super) fn serve(&self, accepted: Accepted) {
        self.order(Order::Serve(accepted));
    }

    /// Ends when the table is in force on this thread.
    pub(super) fn install(&self, table: Arc<ServingTable>) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        self.order(Order::Install(table, done));
        wait
    }

    /// Ends when the thread gets to it.
    pub(super) fn answer(&self) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        self.order(Order::Answer(done));
        wait
    }

    /// Ends when the thread has no more connections.
    pub(super) fn shut_down(&self, grace: Duration) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        self.order(Order::ShutDown(grace, done));
        wait
    }

    /// A thread that has ended takes no orders; what was sent with them is dropped, which closes connections and ends
    /// the wait of whoever waits.
    fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }
}

/// A request's hold on the table that it began on. Cloning it touches no memory of another thread.
pub(super) type Lease = Rc<Arc<ServingTable>>;

/// What the connections of a thread share.
pub(super) struct Local {
    table: RefCell<Lease>,
    pub(super) pool: Rc<Pool>,
    pub(super) streams: Streams,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) challenges: Arc<Challenges>,
    pub(super) balancers: Arc<Balancers>,
    pub(super) limits: Limits,
    /// Cancelled when connections are to end after their request under way.
    pub(super) closing: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Local {
    /// The table in force.
    pub(super) fn table(&self) -> Lease {
        self.table.borrow().clone()
    }
}

async fn run(mut orders: mpsc::UnboundedReceiver<Order>, setting: Setting, table: Arc<ServingTable>) {
    let local = Rc::new(Local {
        pool: Rc::new(Pool::default()),
        streams: Streams::default(),
        table: RefCell::new(Rc::new(table)),
        tls: setting.tls.map(TlsAcceptor::from),
        challenges: setting.challenges,
        balancers: setting.balancers,
        limits: setting.limits,
        closing: CancellationToken::new(),
        tasks: TaskTracker::new(),
    });
    local.pool.keep_only(local.table().table());
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            _ = sweep.tick() => {
                local.pool.sweep();
                local.streams.sweep();
                continue;
            }
        };
        match order {
            Some(Order::Serve(accepted)) => {
                local.tasks.spawn_local(connection::serve(local.clone(), accepted));
            }
            Some(Order::Install(table, done)) => {
                local.pool.keep_only(table.table());
                local.streams.keep_only(table.table());
                local.table.replace(Rc::new(table));
                let _ = done.send(());
            }
            Some(Order::Answer(done)) => {
                let _ = done.send(());
            }
            Some(Order::ShutDown(grace, done)) => {
                local.closing.cancel();
                local.tasks.close();
                if timeout(grace, local.tasks.wait()).await.is_err() {
                    tracing::warn!(
                        connections = local.tasks.len(),
                        "connections were cut off at the end of the grace time"
                    );
                }
                let _ = done.send(());
                return;
            }
            None => return,
        }
    }
}
