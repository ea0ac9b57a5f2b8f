//! Whom we believe that a server is who it says.

use std::cell::RefCell;

use domain::config::OutgoingRules;
use tracing::error;

#[cfg(feature = "extra-ca")]
use super::own_tls::OwnTls;

/// Who decides which certificates are good.
#[derive(Clone)]
pub(super) enum Trust {
    /// The runtime, by the authorities that it knows.
    Runtimes,
    /// We do, by the authorities that Mozilla knows and those that the operator names.
    #[cfg(feature = "extra-ca")]
    Ours(OwnTls),
}

thread_local! {
    static TRUST: RefCell<Option<Trust>> = const { RefCell::new(None) };
}

impl Trust {
    /// By the configuration; it is read once for each isolate.
    pub(super) fn of(rules: &OutgoingRules) -> Self {
        TRUST.with_borrow_mut(|slot| slot.get_or_insert_with(|| Self::read(rules)).clone())
    }

    fn read(rules: &OutgoingRules) -> Self {
        let Some(extra_ca) = &rules.extra_ca else { return Self::Runtimes };
        match Self::ours(extra_ca) {
            Ok(trust) => trust,
            // What the runtime trusts is reached all the same.
            Err(error) => {
                error!(%error, "EXTRA_CA is not used");
                Self::Runtimes
            }
        }
    }

    #[cfg(feature = "extra-ca")]
    fn ours(extra_ca: &str) -> Result<Self, platform::Fault> {
        OwnTls::trusting(extra_ca).map(Self::Ours)
    }

    #[cfg(not(feature = "extra-ca"))]
    fn ours(_: &str) -> Result<Self, platform::Fault> {
        Err(platform::Fault::new(
            "this Worker was built without the feature extra-ca: build it with MYELIN_EXTRA_CA set",
        ))
    }

    /// Whether the runtime's `fetch` would decide otherwise.
    pub(super) fn is_ours(&self) -> bool {
        !matches!(self, Self::Runtimes)
    }
}
