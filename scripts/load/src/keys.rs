//! Keys that are given out and asked for, and messages to many devices: what precedes an encrypted message in a room.

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use crate::{
    Result, Sizes,
    costs::{ALARMS_REST, Meter},
    report::{Budget, Cost, Report},
    storm::{Bounds, storm},
    user::{AT_ONCE, Registrar, User},
};

/// One-time keys that a device may have at a time.
const ONE_TIME_KEYS: usize = 1_000;
/// A claim marks the key as given, and nothing else.
const ROWS_PER_CLAIM_MAX: f64 = 1.5;
/// For each device the message and the transaction, so that a repeated one is known again.
const ROWS_PER_RECEIVER_MAX: f64 = 2.5;

/// Everybody who takes part.
pub(crate) struct Keys {
    /// Those who ask and send.
    active: Vec<User>,
    /// Those whose device has keys, and is sent to.
    others: Vec<User>,
}

impl Keys {
    /// Makes the accounts and publishes their keys.
    pub(crate) async fn publish(registrar: &Registrar, sizes: &Sizes) -> Result<Self> {
        let (active, others) =
            (registrar.users("asks", sizes.claimers).await?, registrar.users("keyed", sizes.keyed).await?);
        let others = stream::iter(others)
            .map(|mut user| async {
                let keys = device_keys(&user);
                user.uploads_keys(&json!({ "device_keys": keys })).await?;
                Result::Ok(user)
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        Ok(Self { active, others })
    }

    /// How many are answered, and how long each takes.
    pub(crate) async fn speeds(&mut self, sizes: &Sizes, report: &mut Report) -> Result<()> {
        let Self { active, others } = self;
        let owner = others.first_mut().ok_or("nobody has keys")?;
        owner.uploads_keys(&json!({ "one_time_keys": one_time_keys("speed", ONE_TIME_KEYS) })).await?;
        let one_device = json!({ (&owner.id): { (&owner.device_id): "signed_curve25519" } });
        let bounds = Bounds { count_each: ONE_TIME_KEYS / active.len().max(1), ..sizes.bounds };
        let claims = storm(active, bounds, async |user| user.claims_keys(&one_device).await).await?;
        let what = format!("claim a key of one device, {} at once", active.len());
        report.rate(&what, "claims/s", claims.per_second);
        report.percentiles(&what, &claims.samples);

        let one = active.get_mut(..1).ok_or("nobody asks")?;
        let bounds = Bounds { count_each: sizes.samples, ..sizes.bounds };
        let everybody = queried(others);
        let queries = storm(one, bounds, async |user| user.asks_keys(&everybody).await).await?;
        report.percentiles(&format!("query the keys of {} users", others.len()), &queries.samples);

        let receivers = receivers(others, sizes.receivers);
        let sends = storm(one, bounds, async |user| user.sends_to_devices(&receivers).await).await?;
        report.percentiles(&format!("message to {} devices", sizes.receivers), &sends.samples);
        Ok(())
    }

    /// What they cost by the server's own counters, if it shows any.
    pub(crate) async fn costs(&mut self, meter: &mut Meter, sizes: &Sizes, report: &mut Report) -> Result<()> {
        let Self { active, others } = self;
        let (user, count) = (active.first_mut().ok_or("nobody asks")?, sizes.counted);
        let owner = others.last_mut().ok_or("nobody has keys")?;
        owner.uploads_keys(&json!({ "one_time_keys": one_time_keys("cost", count) })).await?;
        let one_device = json!({ (&owner.id): { (&owner.device_id): "signed_curve25519" } });
        let (everybody, receivers) = (queried(others), receivers(others, sizes.receivers));
        // The first one to be received arms an alarm that forgets it some day, and what it set off comes to rest.
        user.sends_to_devices(&receivers).await?;
        meter.at_rest(ALARMS_REST).await?;

        let spent = meter.spent_on(async {
            for _claim in 0..count {
                user.claims_keys(&one_device).await?;
            }
            Ok(())
        });
        let cost = Cost::new("claim a key", count, spent.await?);
        report.budget(Budget::at_most("claim: rows written", cost.per_operation().rows_written, ROWS_PER_CLAIM_MAX));
        report.cost(cost);

        let spent = meter.spent_on(async {
            for _query in 0..count {
                user.asks_keys(&everybody).await?;
            }
            Ok(())
        });
        let cost = Cost::new(&format!("query the keys of {} users", others.len()), count, spent.await?);
        report.budget(Budget::at_most("query of keys: rows written", cost.per_operation().rows_written, 0.0));
        report.cost(cost);

        let spent = meter.spent_on(async {
            for _message in 0..count {
                user.sends_to_devices(&receivers).await?;
            }
            Ok(())
        });
        let cost = Cost::new(&format!("message to {} devices", sizes.receivers), count, spent.await?);
        let rows = cost.per_operation().rows_written / sizes.receivers as f64;
        report.budget(Budget::at_most("message to devices: rows written for each", rows, ROWS_PER_RECEIVER_MAX));
        report.cost(cost);
        Ok(())
    }
}

pub(crate) fn queried(users: &[User]) -> Value {
    users.iter().map(|user| (user.id.clone(), json!([]))).collect::<serde_json::Map<_, _>>().into()
}

pub(crate) fn receivers(users: &[User], count: usize) -> Value {
    // Of the size of an encrypted room key.
    let message = json!({ "*": { "ciphertext": "x".repeat(1_500) } });
    users.iter().take(count).map(|user| (user.id.clone(), message.clone())).collect::<serde_json::Map<_, _>>().into()
}

/// The device's identity keys, signed by it. Spec: Appendices, "Signing JSON".
pub(crate) fn device_keys(user: &User) -> Value {
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = BASE64_STANDARD_NO_PAD.encode(key.verifying_key().as_bytes());
    let (name, curve) = (format!("ed25519:{}", user.device_id), format!("curve25519:{}", user.device_id));
    let mut keys = json!({
        "user_id": user.id, "device_id": user.device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": { (&name): public, (curve): "c" },
    });
    // A `Value` is written without spaces and with its keys in their order: canonical JSON.
    let signature = BASE64_STANDARD_NO_PAD.encode(key.sign(keys.to_string().as_bytes()).to_bytes());
    if let Some(keys) = keys.as_object_mut() {
        keys.insert("signatures".to_owned(), json!({ (&user.id): { (name): signature } }));
    }
    keys
}

pub(crate) fn one_time_keys(what: &str, count: usize) -> Value {
    let key = json!({ "key": "c".repeat(43), "signatures": { "a": { "b": "s".repeat(86) } } });
    let keys = (0..count).map(|number| (format!("signed_curve25519:{what}{number}"), key.clone()));
    keys.collect::<serde_json::Map<_, _>>().into()
}
