//! A PostgreSQL of this test process's own: Debian's programs on a folder of its own, reached through a socket there, with a database
//! for each test. It ends with the process, however that ends. Where PostgreSQL is not installed, tests fail.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Whoever may do everything there.
const OWNER: &str = "postgres";

/// Makes a cluster and runs its server: anew at each line of its input, and no more when that ends, which the operating system
/// sees to when this process is gone. Arguments: folder of the programs, folder of the cluster, further options of the server.
const SCRIPT: &str = r#"
set -eu
umask 077
bin=$1 folder=$2
shift 2
"$bin/initdb" -D "$folder/data" -U postgres -E UTF8 --locale=C --no-sync --wal-segsize=1 --auth=trust >"$folder/log" 2>&1 ||
    { cat "$folder/log" >&2; exit 1; }
printf 'local all guest scram-sha-256\nlocal all all trust\n' > "$folder/data/pg_hba.conf"
serve() {
    "$bin/postgres" -D "$folder/data" -k "$folder" -p 5432 -c listen_addresses= -c min_wal_size=4MB -c max_wal_size=64MB \
        -c shared_buffers=32MB "$@" >>"$folder/log" 2>&1 &
    server=$!
    until "$bin/pg_isready" -q -h "$folder" -p 5432; do kill -0 $server || { cat "$folder/log" >&2; exit 1; }; done
    echo ready
}
trap 'kill -QUIT $server 2>/dev/null; wait $server; rm -rf "$folder"' EXIT
serve "$@"
while read -r _; do
    kill -QUIT $server
    wait $server || true
    serve "$@"
done
"#;

/// A server of its own, until the process ends.
pub struct Cluster {
    folder: PathBuf,
    /// Its input is what keeps the server going.
    keeper: Child,
    said: BufReader<ChildStdout>,
}

/// Debian keeps the programs of each version in a folder of their own, off the path.
fn programs() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib/postgresql").map(|list| list.flatten().map(|entry| entry.path().join("bin")));
    let newest = folders.into_iter().flatten().filter(|bin| bin.join("initdb").exists()).max();
    newest.expect("PostgreSQL is not installed: run `cargo xtask setup`, or install Debian's package postgresql")
}

/// Room for a cluster, its log and some databases, in kilobytes.
const ROOM_KB: u64 = 1_000_000;

/// Memory where there is room: on a disk a database takes a second to make and drop, for all that is synced.
fn place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free = Command::new("df").args(["-k", "--output=avail"]).arg(memory).output();
    let text = free.map(|free| String::from_utf8_lossy(&free.stdout).into_owned()).unwrap_or_default();
    let free_kb = text.lines().last().and_then(|line| line.trim().parse().ok()).unwrap_or(0);
    if free_kb > ROOM_KB { memory.to_owned() } else { std::env::temp_dir() }
}

impl Cluster {
    /// With further options of the server.
    pub fn start(options: &[&str]) -> Cluster {
        let folder = tempfile::Builder::new().prefix("manyhands-postgres-").tempdir_in(place()).unwrap().keep();
        // PostgreSQL refuses to run as root, and nobody else can enter a folder of root's.
        let is_root = std::fs::metadata(&folder).unwrap().uid() == 0;
        let mut keeper = if is_root {
            let owned = Command::new("chown").arg(OWNER).arg(&folder).status().unwrap();
            assert!(owned.success(), "Debian's package postgresql makes the user {OWNER}");
            let mut keeper = Command::new("setpriv");
            keeper.args([&format!("--reuid={OWNER}"), &format!("--regid={OWNER}"), "--clear-groups", "sh"]);
            keeper
        } else {
            Command::new("sh")
        };
        keeper.args(["-c", SCRIPT, "sh"]).arg(programs()).arg(&folder).args(options).current_dir("/");
        let mut keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(keeper.stdout.take().unwrap());
        let mut cluster = Cluster { folder, keeper, said };
        cluster.wait();
        cluster
    }

    fn wait(&mut self) {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "PostgreSQL does not start");
    }

    /// Ends the server at once, as a crash does, and starts it again.
    pub fn restart(&mut self) {
        self.keeper.stdin.as_mut().unwrap().write_all(b"again\n").unwrap();
        self.wait();
    }

    /// The address of a database there.
    pub fn address(&self, database: &str) -> String {
        format!("postgres://{OWNER}@localhost/{database}?host={}", self.folder.display())
    }
}

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(&[]))
}

/// A statement of the server's owner.
pub async fn order(statement: &str) {
    let mut connection = PgConnection::connect(&cluster().address(OWNER)).await.unwrap();
    sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// An empty database, which goes with this value.
pub struct Database {
    pub name: String,
}

impl Database {
    pub async fn create() -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        order(&format!("CREATE DATABASE {name}")).await;
        Database { name }
    }

    pub fn address(&self) -> String {
        cluster().address(&self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Whoever is still connected is cut off. A runtime of its own: this one may be about to end.
        let statement = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let dropped = std::thread::spawn(move || tokio::runtime::Runtime::new().unwrap().block_on(order(&statement))).join();
        if !std::thread::panicking() {
            dropped.unwrap();
        }
    }
}
