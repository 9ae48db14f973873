//! The control socket as its clients and its neighbours see it.

use std::os::unix::net::UnixListener as StdListener;

use serde_json::json;

use super::*;

struct Bench {
    folder: tempfile::TempDir,
    end: CancellationToken,
    tasks: TaskTracker,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), end: CancellationToken::new(), tasks: TaskTracker::new() }
    }

    fn control(&self) -> PathBuf {
        control_dir(self.folder.path())
    }

    async fn bind(&self) -> ControlSocket {
        ControlSocket::bind_in(&self.control(), &self.folder.path().join("short"), "worker").await.unwrap()
    }

    /// Serves a socket that repeats what it is asked, and refuses rollbacks.
    async fn serve(&self) -> PathBuf {
        let socket = self.bind().await;
        let path = socket.path().to_owned();
        let operate: Operate = Arc::new(|request| {
            Box::pin(async move {
                match request {
                    ControlRequest::Rollback { plugin } => Err(format!("no {plugin}")),
                    request => Ok(json!(request)),
                }
            })
        });
        self.tasks.spawn(socket.serve(operate, self.tasks.clone(), self.end.clone()));
        path
    }

    fn files(&self) -> usize {
        fs::read_dir(self.control()).unwrap().count()
    }
}

async fn ask(path: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    // A server that has seen enough closes before the end of an endless request.
    let _ = stream.write_all(request).await;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

#[tokio::test]
async fn requests_are_answered_and_the_socket_goes_with_its_process() {
    let bench = Bench::new();
    let path = bench.serve().await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    assert_eq!(path, bench.control().join(format!("worker-{}.sock", std::process::id())));
    assert_eq!(ask(&path, b"{\"command\":\"list\"}\n").await, "{\"done\":{\"command\":\"list\"}}\n");
    let rollback = ask(&path, b"{\"command\":\"rollback\",\"plugin\":\"chat\"}\n").await;
    assert_eq!(rollback, "{\"failed\":\"no chat\"}\n");
    for wrong in [&b"{\"command\":\"stop\"}\n"[..], b"hello\n", b"{\"command\":\"retry\"}\n", b"\xff\xfe\n"] {
        assert!(ask(&path, wrong).await.starts_with("{\"failed\":\"this is no request"), "{wrong:?}");
    }
    bench.end.cancel();
    bench.tasks.close();
    bench.tasks.wait().await;
    assert_eq!(bench.files(), 0);
}

#[tokio::test]
async fn an_endless_request_is_refused_and_a_silent_one_ends() {
    let bench = Bench::new();
    let path = bench.serve().await;
    let endless = vec![b' '; REQUEST_BYTES_MAX + 1];
    assert!(ask(&path, &endless).await.contains("more than 65536 bytes"));
    let mut longest = vec![b' '; REQUEST_BYTES_MAX - 19];
    longest.extend_from_slice(b"{\"command\":\"list\"}\n");
    assert!(ask(&path, &longest).await.starts_with("{\"done\""));
    let silent: Vec<_> = futures_util::future::join_all((0..CONNECTIONS_MAX).map(|_| UnixStream::connect(&path))).await;
    let started = time::Instant::now();
    // All places are taken: this one waits until a silent connection is closed.
    assert!(ask(&path, b"{\"command\":\"list\"}\n").await.starts_with("{\"done\""));
    assert!(started.elapsed() >= REQUEST_TIMEOUT - Duration::from_secs(1), "{:?}", started.elapsed());
    drop(silent);
}

#[tokio::test]
async fn leftovers_go_and_living_neighbours_stay() {
    let bench = Bench::new();
    private_folder(&bench.control()).unwrap();
    let place = |name: &str| bench.control().join(name);
    drop(StdListener::bind(place("server-1.sock")).unwrap());
    let lives = StdListener::bind(place("server-2.sock")).unwrap();
    fs::write(place("dev-3.path"), bench.folder.path().join("none.sock").to_str().unwrap()).unwrap();
    fs::write(place("notes.txt"), "").unwrap();
    let ours = StdListener::bind(place(&format!("worker-{}.sock", std::process::id()))).unwrap();
    let socket = bench.bind().await;
    assert!(!place("server-1.sock").exists() && !place("dev-3.path").exists());
    assert!(place("server-2.sock").exists() && place("notes.txt").exists());
    assert_eq!(socket.path(), place(&format!("worker-{}.2.sock", std::process::id())), "another container's process has our id");
    drop((lives, ours));
}

#[tokio::test]
async fn a_path_that_is_too_long_is_noted() {
    let bench = Bench::new();
    let long = bench.folder.path().join("x".repeat(SOCKET_PATH_BYTES_MAX));
    let folder = control_dir(&long);
    let socket = ControlSocket::bind_in(&folder, &bench.folder.path().join("s"), "server").await.unwrap();
    let note = folder.join(format!("server-{}.path", std::process::id()));
    assert_eq!(crate::plugin::noted_socket(&note).unwrap(), socket.path());
    UnixStream::connect(socket.path()).await.unwrap();
    let path = socket.path().to_owned();
    drop(socket);
    assert!(!path.exists() && !note.exists());
}

#[test]
fn only_our_user_and_root_may_ask() {
    assert!(is_allowed(1000, 1000) && is_allowed(0, 1000));
    assert!(!is_allowed(1001, 1000) && !is_allowed(1000, 0));
}
