use std::{cell::RefCell, collections::VecDeque};

use platform::{Fault, WAITING_CALLS_MAX};
use tokio::sync::oneshot;

/// Where a reply goes. The caller drops its end when it no longer wants one.
pub(crate) type Reply<R> = oneshot::Sender<Result<R, Fault>>;
/// Where a waiting call's reply goes; `None` ends the wait as its timeout would.
pub(crate) type WaitReply = Reply<Option<Vec<u8>>>;

/// A call that the actor had nothing to say to yet.
pub(crate) struct Waiter {
    pub call: String,
    pub body: Vec<u8>,
    pub reply: WaitReply,
}

/// The calls that wait on one actor.
#[derive(Default)]
pub(crate) struct Waiters {
    /// The oldest first.
    parked: RefCell<VecDeque<Waiter>>,
}

impl Waiters {
    /// Has one more wait; when there are too many, the oldest waits no longer.
    pub(crate) fn park(&self, waiter: Waiter) {
        self.forget_gone();
        let mut parked = self.parked.borrow_mut();
        if parked.len() >= WAITING_CALLS_MAX
            && let Some(oldest) = parked.pop_front()
        {
            // A caller that is gone needs no answer.
            let _ = oldest.reply.send(Ok(None));
        }
        parked.push_back(waiter);
    }

    /// How many callers wait. Those whose timeout passed or whose client left do not count.
    pub(crate) fn count(&self) -> usize {
        self.forget_gone();
        self.parked.borrow().len()
    }

    /// Asks again about each waiting call, and answers those that have a reply now.
    pub(crate) fn answered(&self, ask: impl Fn(&str, &[u8]) -> Option<Vec<u8>>) -> Vec<(WaitReply, Vec<u8>)> {
        self.forget_gone();
        let mut answered = Vec::new();
        for waiter in self.parked.take() {
            match ask(&waiter.call, &waiter.body) {
                Some(reply) => answered.push((waiter.reply, reply)),
                None => self.parked.borrow_mut().push_back(waiter),
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
