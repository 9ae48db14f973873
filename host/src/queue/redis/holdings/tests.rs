//! Leases that pass, lapse and come back, and what may run meanwhile.

use super::*;
use crate::wire::ids::NodeId;

fn id(ms: u64) -> StreamId {
    StreamId { ms, sequence: 0 }
}

fn taken(holdings: &Holdings, entry: StreamId, session: &SessionId, sequence: u64) -> u64 {
    holdings.plan();
    match holdings.take(0, entry, session, sequence) {
        Hand::Taken(delivery) => delivery,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_read_brings_waits_for_the_jobs_put_out_of_hand_meanwhile() {
    let holdings = Holdings::new(Duration::from_secs(60), 100);
    let session = SessionId::random(&NodeId::random().unwrap()).unwrap();
    let late = Instant::now().checked_sub(Duration::from_secs(90)).unwrap();
    holdings.renewed(Instant::now(), 1, &[(0, 1)]);
    let first = taken(&holdings, id(1), &session, 1);
    holdings.recovered(0);
    holdings.read_ended(false);
    assert_eq!(holdings.plan().read, [0]);
    holdings.renewed(late, 1, &[(0, 1)]);
    assert!(!holdings.may_start(0, id(1), first), "the lease has lapsed");
    holdings.renewed(Instant::now(), 1, &[(0, 1)]);
    assert_eq!(holdings.take(0, id(2), &session, 2), Hand::NotYet, "it would overtake the first");
    holdings.recovered(0);
    holdings.read_ended(false);
    assert_eq!(holdings.plan().recover, [(0, Recovery::Own)], "both are claimed, in their order");
    assert!(matches!(holdings.take(0, id(1), &session, 1), Hand::Taken(_)));
}

#[test]
fn over_its_share_a_worker_lets_go_when_jobs_are_settled() {
    let holdings = Holdings::new(Duration::from_secs(60), 100);
    assert!(holdings.renewed(Instant::now(), 2, &[(0, 1), (1, 2)]));
    assert_eq!(holdings.plan().recover, [(0, Recovery::TakeOver), (1, Recovery::TakeOver)]);
    let session = SessionId::random(&NodeId::random().unwrap()).unwrap();
    for partition in [0, 1] {
        holdings.recovered(partition);
        assert_eq!(holdings.take(partition, id(1), &session, u64::from(partition) + 1), Hand::Taken(u64::from(partition) + 1));
    }
    holdings.read_ended(false);
    assert!(holdings.renewed(Instant::now(), 1, &[(0, 1), (1, 2)]));
    assert_eq!(holdings.plan().read, [0], "the other is no longer read");
    assert!(holdings.release().is_empty(), "but its job is still in hand");
    assert!(holdings.may_start(1, id(1), 2));
    holdings.settled(1, &[id(1)]);
    assert_eq!(holdings.release(), [1]);
}

#[test]
fn a_lost_partition_starts_nothing() {
    let holdings = Holdings::new(Duration::from_secs(60), 100);
    holdings.renewed(Instant::now(), 1, &[(0, 1)]);
    let session = SessionId::random(&NodeId::random().unwrap()).unwrap();
    let delivery = taken(&holdings, id(1), &session, 1);
    assert!(holdings.may_start(0, id(1), delivery));
    holdings.renewed(Instant::now(), 1, &[(0, 2)]);
    assert!(!holdings.may_start(0, id(1), delivery), "another worker had it in between");
}

#[test]
fn an_old_renewal_starts_and_reads_nothing() {
    let holdings = Holdings::new(Duration::from_secs(60), 100);
    holdings.renewed(Instant::now(), 1, &[(0, 1)]);
    let session = SessionId::random(&NodeId::random().unwrap()).unwrap();
    let delivery = taken(&holdings, id(1), &session, 1);
    holdings.renewed(Instant::now().checked_sub(Duration::from_secs(90)).unwrap(), 1, &[(0, 1)]);
    assert!(!holdings.may_start(0, id(1), delivery));
    assert!(holdings.plan().recover.is_empty());
}

#[test]
fn a_paused_partition_holds_up_no_other() {
    let holdings = Holdings::new(Duration::from_secs(60), 100);
    holdings.renewed(Instant::now(), 2, &[(0, 1), (1, 2)]);
    holdings.plan();
    holdings.recovered(1);
    holdings.pause(0, Duration::from_secs(60));
    let plan = holdings.plan();
    assert_eq!((plan.recover, plan.read), (vec![], vec![1]));
    holdings.pause(0, Duration::ZERO);
    assert_eq!(holdings.plan().recover, [(0, Recovery::TakeOver)]);
}

#[test]
fn a_failed_read_is_recovered() {
    let holdings = Holdings::new(Duration::from_secs(60), 100);
    holdings.renewed(Instant::now(), 1, &[(0, 1)]);
    holdings.plan();
    holdings.recovered(0);
    holdings.read_ended(true);
    assert_eq!(holdings.plan().recover, [(0, Recovery::Own)]);
}

#[tokio::test]
async fn the_end_of_a_read_renews_the_lease_only_for_what_can_be_released() {
    let holdings = Holdings::new(Duration::from_secs(60), 100);
    let session = SessionId::random(&NodeId::random().unwrap()).unwrap();
    let told = || async { tokio::time::timeout(Duration::from_millis(1), holdings.releasable.notified()).await.is_ok() };
    holdings.renewed(Instant::now(), 1, &[(0, 1)]);
    taken(&holdings, id(1), &session, 1);
    holdings.read_ended(false);
    holdings.renewed(Instant::now(), 0, &[(0, 1)]);
    holdings.plan();
    holdings.read_ended(false);
    assert!(!told().await, "a job of it is in hand");
    holdings.settled(0, &[id(1)]);
    assert!(told().await);
    holdings.read_ended(false);
    assert!(told().await, "it may have been read when its last job was settled");
}

#[test]
fn a_job_whose_verdict_was_not_stored_comes_again() {
    let holdings = Holdings::new(Duration::from_secs(60), 2);
    let session = SessionId::random(&NodeId::random().unwrap()).unwrap();
    holdings.renewed(Instant::now(), 1, &[(0, 1)]);
    let first = taken(&holdings, id(1), &session, 1);
    taken(&holdings, id(2), &session, 2);
    holdings.recovered(0);
    holdings.read_ended(false);
    let plan = holdings.plan();
    assert!(plan.is_any_full && plan.read.is_empty(), "it has much in hand");
    holdings.put_back(0, id(1), first + 100);
    assert_eq!(holdings.standing(0, id(1), first), Standing::Current, "another delivery is not put back");
    holdings.put_back(0, id(1), first);
    assert_eq!(holdings.standing(0, id(1), first), Standing::Past);
    let plan = holdings.plan();
    assert!(!plan.is_any_full);
    assert_eq!(plan.recover, [(0, Recovery::Own)]);
    assert!(matches!(holdings.take(0, id(1), &session, 1), Hand::Taken(_)));
}
