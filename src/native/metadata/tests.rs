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

/// Uses the server at `MYELIN_TEST_POSTGRES_URL`, whose tables named `contract_…` it replaces.
#[test]
fn postgres_keeps_the_contract() {
    let Ok(url) = std::env::var("MYELIN_TEST_POSTGRES_URL") else {
        let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!in_ci, "MYELIN_TEST_POSTGRES_URL is not set");
        eprintln!("skipped: MYELIN_TEST_POSTGRES_URL is not set");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    keeps_its_contract(&MetadataSource::open(dir.path(), Some(&url)).unwrap());
}
