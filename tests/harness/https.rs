//! A server of HTTP, with or without TLS, on this machine that answers what a test says: as small as can be, and as odd
//! as a test wants.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A client that says nothing more is given up.
const READS_WITHIN: Duration = Duration::from_secs(60);

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Received {
    pub method: String,
    /// Path and query.
    pub uri: String,
    /// With names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// Whom the client wanted to talk to by TLS.
    pub sni: Option<String>,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| &**value)
    }
}

/// Writes an answer of any kind.
pub type Writes = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// What a client gets.
pub enum Reply {
    /// A status, headers and a body.
    Whole(u16, Vec<(String, String)>, Vec<u8>),
    /// Whatever is written, as it is, until the client leaves.
    Raw(Writes),
}

impl Reply {
    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
        Self::Whole(status, headers, body.to_string().into_bytes())
    }
}

type Answers = dyn Fn(&Received) -> Reply + Send + Sync;

/// A server on a port of its own. It runs until the process ends.
pub struct Https {
    pub port: u16,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Https {
    pub fn serves(tls: Arc<ServerConfig>, answers: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::serves_with(Some(tls), answers)
    }

    /// Without TLS.
    pub fn serves_plainly(answers: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::serves_with(None, answers)
    }

    fn serves_with(
        tls: Option<Arc<ServerConfig>>,
        answers: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it has an address").port();
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let (noted, answers): (_, Arc<Answers>) = (received.clone(), Arc::new(answers));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tls, noted, answers) = (tls.clone(), noted.clone(), answers.clone());
                // Who breaks off has had enough.
                thread::spawn(move || drop(converses(stream, tls, &noted, &*answers)));
            }
        });
        Self { port, received }
    }

    /// What it was asked since the last time.
    pub fn takes_received(&self) -> Vec<Received> {
        std::mem::take(&mut *self.received.lock().expect("no holder panics"))
    }
}

fn converses(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    noted: &Mutex<Vec<Received>>,
    answers: &Answers,
) -> io::Result<()> {
    stream.set_read_timeout(Some(READS_WITHIN))?;
    // An answer goes out when it is there: waiting for more would be taken for the client's slowness.
    stream.set_nodelay(true)?;
    let Some(tls) = tls else { return talks(&mut BufReader::new(stream), |_| None, noted, answers) };
    let connection = ServerConnection::new(tls).map_err(io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    talks(&mut stream, |stream| stream.conn.server_name().map(str::to_owned), noted, answers)?;
    let out = stream.get_mut();
    out.conn.send_close_notify();
    out.flush()
}

fn talks<S: Read + Write>(
    stream: &mut BufReader<S>,
    sni: impl Fn(&S) -> Option<String>,
    noted: &Mutex<Vec<Received>>,
    answers: &Answers,
) -> io::Result<()> {
    while let Some(mut request) = reads(stream)? {
        request.sni = sni(stream.get_ref());
        noted.lock().expect("no holder panics").push(request.clone());
        let out = stream.get_mut();
        match answers(&request) {
            Reply::Whole(status, headers, body) => {
                let mut head = format!("HTTP/1.1 {status} As Told\r\nContent-Length: {}\r\n", body.len());
                for (name, value) in headers {
                    head.push_str(&format!("{name}: {value}\r\n"));
                }
                head.push_str("\r\n");
                out.write_all(head.as_bytes())?;
                out.write_all(&body)?;
                out.flush()?;
                if request.header("connection") == Some("close") {
                    break;
                }
            }
            Reply::Raw(write) => {
                write(out)?;
                break;
            }
        }
    }
    Ok(())
}

fn reads(stream: &mut impl BufRead) -> io::Result<Option<Received>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let mut request = Received {
        method: words.next().unwrap_or_default(),
        uri: words.next().unwrap_or_default(),
        ..Received::default()
    };
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if let Some(length) = request.header("content-length").and_then(|length| length.parse().ok()) {
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        request.body = String::from_utf8_lossy(&body).into_owned();
    } else if request.header("transfer-encoding") == Some("chunked") {
        request.body = reads_chunks(stream)?;
    }
    Ok(Some(request))
}

fn reads_chunks(stream: &mut impl BufRead) -> io::Result<String> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; length + 2];
        stream.read_exact(&mut chunk)?;
        if length == 0 {
            return Ok(String::from_utf8_lossy(&body).into_owned());
        }
        body.extend_from_slice(&chunk[..length]);
    }
}
