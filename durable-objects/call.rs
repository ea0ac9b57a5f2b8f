//! Typed calls to actors, and how they travel.
//!
//! A call is a type that names its actor and its reply. It travels as JSON, so that two deployed versions
//! understand each other during a rollout: fields are added with a default and never change meaning; the
//! encodings are pinned by snapshot tests beside each call.

use domain::refusal::Refusal;
use platform::{ActorKind, Actors, Address, Fault};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::room::Unsigned;

/// A message to an actor; the type says who answers and with what.
pub trait Call: Serialize + DeserializeOwned + 'static {
    const ACTOR: ActorKind;
    /// Unique among the actor's calls, stable for ever.
    const NAME: &'static str;
    type Reply: Serialize + DeserializeOwned;
}

/// Why an operation inside an actor did not happen. Either way its transaction is rolled back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's doing: told to the client, not logged.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It may not happen before the room's policy server signed it.
    #[error("{} has to sign the event", .0.server)]
    Unsigned(Box<Unsigned>),
    /// Ours: logged once, told to nobody.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Error::Fault(error.into())
    }
}

/// Why a call to an actor did not succeed, as its caller sees it.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is to be made again once the room's policy server signed this.
    #[error("{} has to sign the event", .0.server)]
    Unsigned(Box<Unsigned>),
    /// The actor was never founded: nobody registered that user, created that room.
    #[error("there is no such actor")]
    Absent,
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A reply on the wire.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Envelope<R> {
    Ok(R),
    Refused(Refusal),
    Unsigned(Box<Unsigned>),
    Absent,
    Fault { what: String, retriable: bool },
}

/// Calls the actor `id` and answers its reply.
pub async fn call<C: Call>(actors: &dyn Actors, id: impl Into<String>, call: &C) -> Result<C::Reply, CallError> {
    let body = serde_json::to_vec(call).map_err(Fault::from)?;
    open::<C>(&actors.call(&Address::new(C::ACTOR, id), C::NAME, body).await?)
}

/// Makes a call that waits for something to say; `None` when nothing came within `timeout_ms`.
pub async fn wait<C: Call>(
    actors: &dyn Actors,
    id: impl Into<String>,
    call: &C,
    timeout_ms: u64,
) -> Result<Option<C::Reply>, CallError> {
    let body = serde_json::to_vec(call).map_err(Fault::from)?;
    let reply = actors.wait(&Address::new(C::ACTOR, id), C::NAME, body, timeout_ms).await?;
    reply.map(|bytes| open::<C>(&bytes)).transpose()
}

pub(crate) fn open<C: Call>(bytes: &[u8]) -> Result<C::Reply, CallError> {
    let envelope = serde_json::from_slice(bytes)
        .map_err(|error| Fault::retriable(format!("reply to {} not understood: {error}", C::NAME)))?;
    match envelope {
        Envelope::Ok(reply) => Ok(reply),
        Envelope::Refused(refusal) => Err(CallError::Refused(refusal)),
        Envelope::Unsigned(unsigned) => Err(CallError::Unsigned(unsigned)),
        Envelope::Absent => Err(CallError::Absent),
        Envelope::Fault { what, retriable } => {
            let what = format!("{}: {what}", C::NAME);
            Err(CallError::Fault(if retriable { Fault::retriable(what) } else { Fault::new(what) }))
        }
    }
}

pub(crate) fn decode<C: Call>(body: &[u8]) -> Result<C, Error> {
    serde_json::from_slice(body)
        .map_err(|error| Fault::retriable(format!("call {} not understood: {error}", C::NAME)).into())
}

pub(crate) fn encode<R: Serialize>(reply: &R) -> Result<Vec<u8>, Error> {
    Ok(serde_json::to_vec(&Envelope::Ok(reply))?)
}

/// The reply's bytes for a caller whose call did not succeed. Encoding these cannot fail.
pub(crate) fn encode_error(error: CallError) -> Vec<u8> {
    let envelope: Envelope<()> = match error {
        CallError::Refused(refusal) => Envelope::Refused(refusal),
        CallError::Unsigned(unsigned) => Envelope::Unsigned(unsigned),
        CallError::Absent => Envelope::Absent,
        CallError::Fault(fault) => Envelope::Fault { what: fault.to_string(), retriable: fault.retriable },
    };
    serde_json::to_vec(&envelope).unwrap_or_default()
}
