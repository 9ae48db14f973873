//! A plugin that has been quick, and hangs: what it was given ahead of its threads takes nothing from others.

use super::*;

/// Serves the actions `known` and `other`, each by a plugin of its own.
struct TwoPlugins([Arc<LiveVersion>; 2]);

impl Plugins for TwoPlugins {
    fn action(&self, action: &str) -> Option<Arc<LiveVersion>> {
        ["known", "other"].iter().position(|name| *name == action).map(|index| Arc::clone(&self.0[index]))
    }

    fn handler(&self) -> Option<Arc<LiveVersion>> {
        None
    }
}

#[tokio::test]
async fn it_leaves_its_slots_to_others() {
    let (recorder, queue) = Recorder::queue();
    let (running, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, gate) = (Arc::clone(&running), Arc::clone(&go));
    let script: Arc<Script> = Arc::new(move |call| {
        let (counted, gate) = (Arc::clone(&counted), Arc::clone(&gate));
        Box::pin(async move {
            if call.data == "2" {
                counted.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
            }
            answer(Status::Done, "")
        })
    });
    let version = |plugin: &str| {
        Arc::new(LiveVersion { plugin: plugin.into(), version: "v1".into(), callee: Arc::new(Scripted(Arc::clone(&script))) })
    };
    let plugins = Arc::new(TwoPlugins([version("one"), version("two")]));
    let settings: Settings = toml::from_str("[worker]\nslots = 6\n[plugins.one]\nthreads = 2\n[plugins.two]\nthreads = 2").unwrap();
    let (node, stop) = (NodeId::random().unwrap(), CancellationToken::new());
    let worker = tokio::spawn(run(queue, plugins, Arc::new(ArcSwap::from_pointee(settings)), node.clone(), stop.clone()));
    let push = |action: &str, sequence| {
        recorder.push(Job { action: action.to_owned(), ..job(&SessionId::random(&node).unwrap(), sequence) });
    };
    (0..40).for_each(|_| push("known", 1));
    recorder.settled(40).await;
    (0..10).for_each(|_| push("known", 2));
    let ahead = async {
        while running.load(Ordering::SeqCst) < 6 {
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    time::timeout(SOON, ahead).await.expect("quick calls go ahead");
    (0..20).for_each(|_| push("other", 1));
    recorder.settled(20).await;
    assert_eq!(running.load(Ordering::SeqCst), 6, "none of it goes ahead any more");
    go.add_permits(10);
    recorder.settled(10).await;
    stop.cancel();
    assert_eq!(time::timeout(SOON, worker).await.unwrap().unwrap().unwrap(), Drained { cut: 0 });
}
