//! A TCP proxy before a coordinator that counts requests by their first line, and can drop some of them as a broken
//! network would. It changes no byte, so browsers and coordinator see the real thing; it understands no more of HTTP/1.1
//! than where a request begins.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Requests that begin with a method and a path with this in it are counted.
#[derive(Debug, Clone, Copy)]
struct Watched {
    method: &'static str,
    part: &'static str,
    /// Connections that send one are closed.
    refused: bool,
}

/// What was seen of one kind of request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests in all.
    pub total: usize,
    /// Connections whose newest request is one of these: for event streams, the streams that are open.
    pub open: usize,
    /// Most that were open at once.
    pub open_max: usize,
    /// Both ways, heads among them, while a connection's newest request is one of these.
    pub bytes: u64,
}

/// A running proxy; it ends with the runtime it was started on.
pub struct Proxy {
    pub url: String,
    counts: Counts,
}

type Counts = Arc<watch::Sender<Vec<(Watched, Count)>>>;

impl Proxy {
    /// Listens on a free port and passes everything on to `target` (`host:port`).
    pub async fn start(target: SocketAddr, watched: &[(&'static str, &'static str)]) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let counts = watched.iter().map(|&(method, part)| (Watched { method, part, refused: false }, Count::default()));
        let counts = Arc::new(watch::Sender::new(counts.collect()));
        let shared = counts.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, target, shared.clone()));
            }
        });
        Ok(Proxy { url, counts })
    }

    /// What was seen of the watched kind whose path part this is.
    pub fn count(&self, part: &str) -> Count {
        find(&self.counts.borrow(), part)
    }

    /// [`Count::bytes`] of one kind, by method, too.
    pub fn bytes(&self, method: &str, part: &str) -> u64 {
        let counts = self.counts.borrow();
        counts.iter().filter(|(watched, _)| watched.method == method && watched.part == part).map(|(_, count)| count.bytes).sum()
    }

    /// Waits until what was seen of a kind is as `wanted` says.
    pub async fn until(&self, part: &str, limit: Duration, wanted: impl Fn(Count) -> bool) -> Result<Count> {
        let mut counts = self.counts.subscribe();
        let seen = tokio::time::timeout(limit, counts.wait_for(|counts| wanted(find(counts, part)))).await;
        let seen = seen.with_context(|| format!("not within {limit:?}; {part}: {:?}", self.count(part)))?;
        Ok(find(&seen?, part))
    }

    /// From now on connections that send a request of this kind are closed, or no longer.
    pub fn refuse(&self, part: &str, refused: bool) {
        self.counts.send_modify(|counts| {
            counts.iter_mut().filter(|(watched, _)| watched.part == part).for_each(|(watched, _)| watched.refused = refused);
        });
    }
}

fn find(counts: &[(Watched, Count)], part: &str) -> Count {
    counts.iter().find(|(watched, _)| watched.part == part).map(|(_, count)| *count).expect("a watched part")
}

async fn connection(client: TcpStream, target: SocketAddr, counts: Counts) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let ((mut client_in, mut client_out), (mut server_in, mut server_out)) = (client.into_split(), server.into_split());
    let (current, told) = (Mutex::new(None), counts.clone());
    let mut tally = Tally { counts, current: &current };
    let up = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = client_in.read(&mut buffer).await {
            let refused = tally.see(&buffer[..read]);
            tally.moved(read);
            if refused || server_out.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = server_in.read(&mut buffer).await {
            moved(&told, kind(&current), read);
            if client_out.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    };
    // Either side's end ends the connection.
    tokio::select! { () = up => {}, () = down => {} }
}

/// One connection's part in the counts.
struct Tally<'a> {
    counts: Counts,
    current: &'a Mutex<Option<usize>>,
}

fn kind(current: &Mutex<Option<usize>>) -> Option<usize> {
    *current.lock().expect("no code panics while it holds this lock")
}

/// Counts bytes of a connection whose newest request is of this kind.
fn moved(counts: &Counts, kind: Option<usize>, bytes: usize) {
    if let Some(kind) = kind {
        counts.send_modify(|counts| counts[kind].1.bytes += bytes as u64);
    }
}

impl Tally<'_> {
    fn moved(&self, bytes: usize) {
        moved(&self.counts, kind(self.current), bytes);
    }

    /// Whether this is a request to refuse. Browsers send the head of a request at the beginning of a write.
    fn see(&mut self, bytes: &[u8]) -> bool {
        let line = std::str::from_utf8(bytes.split(|&b| b == b'\r').next().unwrap_or_default()).ok();
        let Some((method, rest)) = line.and_then(|line| line.split_once(' ')) else { return false };
        if !["GET", "POST", "PUT", "DELETE"].contains(&method) || !rest.ends_with(" HTTP/1.1") {
            return false;
        }
        self.leave();
        let mut refused = false;
        self.counts.send_modify(|counts| {
            let found = counts.iter_mut().enumerate().find(|(_, (w, _))| w.method == method && rest.contains(w.part));
            let Some((index, (watched, count))) = found else { return };
            count.total += 1;
            count.open += 1;
            count.open_max = count.open_max.max(count.open);
            *self.current.lock().expect("no code panics while it holds this lock") = Some(index);
            refused = watched.refused;
        });
        refused
    }

    fn leave(&mut self) {
        if let Some(index) = self.current.lock().expect("no code panics while it holds this lock").take() {
            self.counts.send_modify(|counts| counts[index].1.open -= 1);
        }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn counts_requests_and_open_streams() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap(), &[("GET", "/events"), ("POST", "/sessions")]).await.unwrap();
        let address = proxy.url.strip_prefix("http://").unwrap().to_owned();
        let mut one = TcpStream::connect(&address).await.unwrap();
        let (mut one_there, _) = server.accept().await.unwrap();
        one.write_all(b"GET /v1/jobs/1/events HTTP/1.1\r\n\r\n").await.unwrap();
        let mut buffer = [0; 64];
        assert!(one_there.read(&mut buffer).await.unwrap() > 0);
        assert_eq!(proxy.count("/events"), Count { total: 1, open: 1, open_max: 1, bytes: 34 });
        one_there.write_all(b"data").await.unwrap();
        assert_eq!(one.read(&mut buffer).await.unwrap(), 4);
        let mut two = TcpStream::connect(&address).await.unwrap();
        let (mut two_there, _) = server.accept().await.unwrap();
        two.write_all(b"GET /v1/jobs/1/events HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(two_there.read(&mut buffer).await.unwrap() > 0);
        two.write_all(b"POST /v1/sessions HTTP/1.1\r\n\r\nbody").await.unwrap();
        assert!(two_there.read(&mut buffer).await.unwrap() > 0);
        assert_eq!(proxy.count("/events"), Count { total: 2, open: 1, open_max: 2, bytes: 72 });
        assert_eq!(proxy.count("/sessions").total, 1);
        proxy.refuse("/events", true);
        one.write_all(b"GET /v1/jobs/1/events HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(one.read(&mut buffer).await.unwrap_or(0), 0, "closed, unanswered");
        assert_eq!(one_there.read(&mut buffer).await.unwrap_or(0), 0, "and not passed on");
        let limit = Duration::from_secs(30);
        assert_eq!(proxy.until("/events", limit, |count| count.open == 0).await.unwrap().total, 3);
    }
}
