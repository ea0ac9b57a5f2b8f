use futures_util::FutureExt as _;
use platform::contract;

use super::MetadataSource;
use crate::actor_host::run_local;

fn keeps_its_contract(source: &MetadataSource) {
    run_local("a test", 1, || async {
        let outcomes = contract::metadata(&*source.connect()).await;
        assert_eq!(contract::failures(&outcomes), "");
    });
}

#[test]
fn sqlite_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    keeps_its_contract(&MetadataSource::open(dir.path(), None).unwrap());
}

#[test]
fn a_database_in_a_file_is_nobody_elses() {
    run_local("a test", 1, || async {
        let dir = tempfile::tempdir().unwrap();
        let source = MetadataSource::open(dir.path(), None).unwrap();
        assert!(source.claim().await.unwrap().taken().now_or_never().is_none());
    });
}

/// Uses the server at `MYELIN_TEST_POSTGRES_URL`, whose tables named `contract_…` it replaces.
#[test]
fn postgres_keeps_the_contract() {
    let Some(source) = postgres() else { return };
    keeps_its_contract(&source);
}

fn postgres() -> Option<MetadataSource> {
    let Ok(url) = std::env::var("MYELIN_TEST_POSTGRES_URL") else {
        let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!in_ci, "MYELIN_TEST_POSTGRES_URL is not set");
        eprintln!("skipped: MYELIN_TEST_POSTGRES_URL is not set");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    Some(MetadataSource::open(dir.path(), Some(&url)).unwrap())
}

#[test]
fn a_database_in_postgres_is_one_process_own() {
    let Some(source) = postgres() else { return };
    run_local("a test", 1, || async {
        let claim = source.claim().await.unwrap();
        assert!(source.claim().await.err().unwrap().to_string().contains("another myelin"));
        drop(claim);
        source.claim().await.unwrap();
    });
}
