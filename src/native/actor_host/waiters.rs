use std::cell::RefCell;

use platform::Fault;
use tokio::sync::oneshot;

/// Where a reply goes. The caller drops its end when it no longer wants one.
pub(crate) type Reply = oneshot::Sender<Result<Vec<u8>, Fault>>;

/// A call that the actor had nothing to say to yet.
pub(crate) struct Waiter {
    pub call: String,
    pub body: Vec<u8>,
    pub reply: Reply,
}

/// The calls that wait on one actor.
#[derive(Default)]
pub(crate) struct Waiters {
    parked: RefCell<Vec<Waiter>>,
}

impl Waiters {
    pub(crate) fn park(&self, waiter: Waiter) {
        self.forget_gone();
        self.parked.borrow_mut().push(waiter);
    }

    /// How many callers wait. Those whose timeout passed or whose client left do not count.
    pub(crate) fn count(&self) -> usize {
        self.forget_gone();
        self.parked.borrow().len()
    }

    /// Asks again about each waiting call, and answers those that have a reply now.
    pub(crate) fn answered(&self, ask: impl Fn(&str, &[u8]) -> Option<Vec<u8>>) -> Vec<(Reply, Vec<u8>)> {
        self.forget_gone();
        let mut answered = Vec::new();
        for waiter in self.parked.take() {
            match ask(&waiter.call, &waiter.body) {
                Some(reply) => answered.push((waiter.reply, reply)),
                None => self.parked.borrow_mut().push(waiter),
            }
        }
        answered
    }

    /// The actor closes: whoever waits is told to try again.
    pub(crate) fn dismiss(&self) {
        for waiter in self.parked.take() {
            // A caller that is gone needs no answer.
            let _ = waiter.reply.send(Err(Fault::retriable("the actor was closed while a call waited on it")));
        }
    }

    fn forget_gone(&self) {
        self.parked.borrow_mut().retain(|waiter| !waiter.reply.is_closed());
    }
}
