use platform::{Fault, Random};

/// The operating system's random numbers.
#[derive(Clone, Copy)]
pub(crate) struct Chance;

impl Random for Chance {
    #[allow(clippy::disallowed_methods, reason = "the one place where chance enters this host")]
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Fault> {
        getrandom::fill(bytes).map_err(|error| Fault::new(format!("no randomness: {error}")))
    }
}
