//! Whose devices changed, for the server to learn it.
//!
//! Nothing waits here but that they did: a carrier asks the user for what is new since the server was told last, and
//! queues that with the numbers it is told up to. A server that is away for a month is told of every device once. What
//! is queued first says nothing of what was before: then the server asks for the whole list, if it has use for one.
//! Spec: Server-Server API, "Device Management".

use platform::{ActorKind, Tx};
use ruma_common::OwnedUserId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Destination, edus, store};
use crate::{Call, Cx, Error};

/// A local user, who shares a room with the server, changed devices or keys. Told again, also by other rooms, it
/// changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DevicesChanged {
    pub user: OwnedUserId,
    /// By the user's own clock, in milliseconds since the Unix epoch.
    pub changed_ms: u64,
}

/// A user of whose devices the server is to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwedDeviceList {
    pub user: OwnedUserId,
    pub changed_ms: u64,
    /// What the server was told last, in the numbers of the user's own streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices_after: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_after: Option<u64>,
}

/// A carrier asked the user. Repeated, it changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueueDeviceList {
    pub user: OwnedUserId,
    /// Up to which change this is all; `None`: there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_ms: Option<u64>,
    /// What the server is told up to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<u64>,
    /// In their order, each under a name of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edus: Vec<(String, Box<RawValue>)>,
}

impl Call for DevicesChanged {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "devices_changed";
    type Reply = ();
}

impl Call for QueueDeviceList {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "queue_device_list";
    type Reply = ();
}

impl Destination {
    pub(super) fn devices_changed(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: DevicesChanged) -> Result<(), Error> {
        if store::devices_changed(tx, call.user.as_str(), call.changed_ms)? {
            self.look_for_a_carrier(tx, cx)?;
        }
        Ok(())
    }

    pub(super) fn queue_device_list(&self, tx: &Tx<'_>, _cx: &Cx<'_>, call: QueueDeviceList) -> Result<(), Error> {
        for (key, edu) in &call.edus {
            edus::put(tx, key, edu)?;
        }
        Ok(store::devices_told(tx, call.user.as_str(), call.changed_ms, call.devices, call.identity)?)
    }
}

#[cfg(test)]
mod tests {
    use ruma_common::{OwnedUserId, user_id};
    use serde_json::value::to_raw_value;

    use super::{DevicesChanged, OwedDeviceList, QueueDeviceList};
    use crate::{
        destination::{Acknowledge, GetEdus, StartAttempt, TakeWork, Work},
        world::World,
    };

    const THERE: &str = "there.test";

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    fn changes(world: &World, changed_ms: u64) -> bool {
        world.call(THERE, &DevicesChanged { user: alice(), changed_ms }).unwrap();
        !world.carriers.take().is_empty()
    }

    fn owed(world: &World) -> Vec<OwedDeviceList> {
        world.call(THERE, &GetEdus { up_to: None }).unwrap().device_lists
    }

    fn queues(world: &World, changed_ms: Option<u64>, devices: u64, names: &[&str]) {
        let edus = names.iter().map(|name| (format!("devices {name}"), to_raw_value(name).unwrap())).collect();
        let call = QueueDeviceList { user: alice(), changed_ms, devices: Some(devices), identity: Some(7), edus };
        world.call(THERE, &call).unwrap();
        world.call(THERE, &call).unwrap();
    }

    #[test]
    fn a_server_is_told_what_is_new_since_the_last_time() {
        let world = World::new(1);
        assert!(changes(&world, 10));
        assert!(!changes(&world, 10), "another room says the same");
        assert_eq!(world.call(THERE, &TakeWork { carrier: "one".into() }).unwrap(), Work::Owed(Vec::new()));
        let first = OwedDeviceList { user: alice(), changed_ms: 10, devices_after: None, identity_after: None };
        assert_eq!(owed(&world), std::slice::from_ref(&first));
        // They change again while the carrier asks them.
        changes(&world, 20);
        queues(&world, Some(10), 4, &["one", "two"]);
        let second = OwedDeviceList { changed_ms: 20, devices_after: Some(4), identity_after: Some(7), ..first };
        assert_eq!(owed(&world), std::slice::from_ref(&second));
        queues(&world, None, 5, &["three"]);
        assert_eq!(owed(&world), [OwedDeviceList { devices_after: Some(5), ..second.clone() }], "there is more");
        queues(&world, Some(20), 6, &["four"]);
        assert_eq!(owed(&world), []);
        let edus = world.call(THERE, &GetEdus { up_to: None }).unwrap();
        let told: Vec<&str> = edus.edus.iter().map(|edu| edu.get().trim_matches('"')).collect();
        assert_eq!(told, ["one", "two", "three", "four"]);
        let start = StartAttempt { carrier: "one".into(), ranges: Vec::new(), edus_up_to: edus.up_to };
        let attempt = world.call(THERE, &start).unwrap().unwrap();
        let transaction_id = attempt.transaction_id;
        world
            .call(THERE, &Acknowledge { carrier: "one".into(), transaction_id, edus_up_to: None, was_empty: false })
            .unwrap();
        assert_eq!(world.call(THERE, &TakeWork { carrier: "one".into() }).unwrap(), Work::Nothing);
        assert!(!changes(&world, 15), "it was told of that");
        assert!(changes(&world, 21));
    }
}
