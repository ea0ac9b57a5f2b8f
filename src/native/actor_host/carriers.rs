use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, OnceLock},
};

use tokio::sync::mpsc::UnboundedSender;

/// The way from an actor to the request tier, which carries out of this server what there is for others. Before the
/// tier is there, nobody comes: actors ask again.
#[derive(Clone, Default)]
pub(crate) struct Carriers(Arc<OnceLock<Vec<UnboundedSender<String>>>>);

impl Carriers {
    /// The threads of the request tier. The first call counts.
    pub(crate) fn are(&self, tiers: Vec<UnboundedSender<String>>) {
        // There is one.
        let _ = self.0.set(tiers);
    }

    pub(super) fn carry(&self, actor: &str) {
        let tiers = self.0.get().map(Vec::as_slice).unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        actor.hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % (tiers.len().max(1) as u64)).unwrap_or_default();
        if let Some(tier) = tiers.get(place) {
            // A tier that stops carries nothing any more.
            let _ = tier.send(actor.to_owned());
        }
    }
}
