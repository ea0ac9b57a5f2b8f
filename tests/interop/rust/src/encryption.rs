//! Whose devices and identities people see, verify, and see go: the keys of end-to-end encryption.

use matrix_sdk::{
    RoomState,
    encryption::{
        CrossSigningResetAuthType,
        identities::{Device, UserIdentity},
        verification::Verification,
    },
    room::MessagesOptions,
    ruma::{
        OwnedRoomId, UInt, UserId,
        api::client::{
            room::create_room::v3::{Request as CreateRoom, RoomPreset},
            uiaa::{AuthData, MatrixUserIdentifier, Password, UserIdentifier},
        },
        events::{key::verification::VerificationMethod, room::message::RoomMessageEventContent},
    },
};

use crate::people::{Outcome, PASSWORD, Person, assert_that, step};

/// What the steps build up: three users and their first devices.
struct Circle {
    alice: Person,
    bob: Person,
    carol: Person,
    room_id: OwnedRoomId,
}

async fn three_meet_in_an_encrypted_room(url: &str) -> Outcome<Circle> {
    let (alice, bob) = (Person::arrives(url, "alice").await?, Person::arrives(url, "bob").await?);
    let carol = Person::arrives(url, "carol").await?;
    let mut request = CreateRoom::new();
    request.preset = Some(RoomPreset::PrivateChat);
    request.invite = vec![bob.id()?.to_owned(), carol.id()?.to_owned()];
    let room_id = alice.client.create_room(request).await?.room_id().to_owned();
    alice.room_in(&room_id, RoomState::Joined).await?.enable_encryption().await?;
    for guest in [&bob, &carol] {
        guest.room_in(&room_id, RoomState::Invited).await?.join().await?;
        let room = guest.room_in(&room_id, RoomState::Joined).await?;
        guest.until(|_| room.encryption_state().is_encrypted().then_some(())).await?;
    }
    Ok(Circle { alice, bob, carol, room_id })
}

/// The device that `owner` is signed in with, as `who` sees it.
async fn device_seen_by(who: &Person, owner: &Person) -> Outcome<Option<Device>> {
    let device_id = owner.client.device_id().ok_or("no device")?;
    Ok(who.client.encryption().get_device(owner.id()?, device_id).await?)
}

async fn devices_seen_by(who: &Person, owner: &UserId) -> Outcome<usize> {
    Ok(who.client.encryption().get_user_devices(owner).await?.keys().count())
}

async fn identity_seen_by(who: &Person, owner: &UserId) -> Outcome<Option<UserIdentity>> {
    Ok(who.client.encryption().get_user_identity(owner).await?)
}

/// The password as the answer to a challenge.
fn proof(person: &Person, session: Option<String>) -> Outcome<AuthData> {
    let user = UserIdentifier::Matrix(MatrixUserIdentifier::new(person.id()?.to_string()));
    let mut password = Password::new(user, PASSWORD.to_owned());
    password.session = session;
    Ok(AuthData::Password(password))
}

async fn bootstraps(person: &Person) -> Outcome {
    let encryption = person.client.encryption();
    match encryption.bootstrap_cross_signing(None).await {
        Ok(()) => Ok(()),
        Err(error) => {
            let session = error.as_uiaa_response().ok_or_else(|| error.to_string())?.session.clone();
            Ok(encryption.bootstrap_cross_signing(Some(proof(person, session)?)).await?)
        }
    }
}

impl Circle {
    async fn devices_publish_their_keys(&self) -> Outcome {
        let people = [&self.alice, &self.bob, &self.carol];
        for owner in people {
            for who in people {
                who.until_asked(async || device_seen_by(who, owner).await).await?;
            }
        }
        Ok(())
    }

    async fn further_devices_are_seen(&self, url: &str) -> Outcome<(Person, Person)> {
        let others = (Person::signs_in(url, self.alice.id()?).await?, Person::signs_in(url, self.bob.id()?).await?);
        for other in [&others.0, &others.1] {
            for who in [&self.alice, &self.bob, &self.carol] {
                who.until_asked(async || device_seen_by(who, other).await).await?;
            }
        }
        Ok(others)
    }

    async fn identities_are_published(&self) -> Outcome {
        for owner in [&self.alice, &self.bob] {
            bootstraps(owner).await?;
            for who in [&self.alice, &self.bob, &self.carol] {
                who.until_asked(async || {
                    let device = device_seen_by(who, owner).await?.filter(Device::is_cross_signed_by_owner);
                    Ok(identity_seen_by(who, owner.id()?).await?.and(device))
                })
                .await?;
            }
        }
        Ok(())
    }

    async fn a_user_verifies_another(&self) -> Outcome {
        let (alice, bob) = (&self.alice, self.bob.id()?);
        identity_seen_by(alice, bob).await?.ok_or("nobody")?.verify().await?;
        // The signature comes back from the server with Bob's keys.
        alice
            .until_asked(async || {
                Ok(alice.client.encryption().request_user_identity(bob).await?.filter(UserIdentity::is_verified))
            })
            .await?;
        let device = device_seen_by(alice, &self.bob).await?.ok_or("no device")?;
        assert_that(device.is_verified_with_cross_signing(), "the device is not verified with its user")?;
        let stranger = identity_seen_by(&self.carol, bob).await?.ok_or("nobody")?;
        assert_that(!stranger.is_verified(), "verified for others too")
    }

    async fn a_user_signs_their_other_device(&self, other: &Person) -> Outcome {
        let unsigned = device_seen_by(&self.alice, other).await?.ok_or("no device")?;
        assert_that(!unsigned.is_cross_signed_by_owner(), "signed already")?;
        device_seen_by(&self.bob, other).await?.ok_or("no device")?.verify().await?;
        for who in [&self.alice, &self.carol] {
            who.until_asked(async || Ok(device_seen_by(who, other).await?.filter(Device::is_cross_signed_by_owner)))
                .await?;
        }
        let signed = device_seen_by(&self.alice, other).await?.ok_or("no device")?;
        assert_that(signed.is_verified_with_cross_signing(), "not verified")
    }

    /// What the first device kept in the account's secret storage lets the other sign itself.
    async fn a_device_is_restored_from_secret_storage(&self, other: &Person) -> Outcome {
        let key = self.alice.client.encryption().secret_storage().create_secret_store().await?.secret_storage_key();
        let encryption = other.client.encryption();
        encryption.secret_storage().open_secret_store(&key).await?.import_secrets().await?;
        let status = encryption.cross_signing_status().await.ok_or("no identity")?;
        assert_that(status.is_complete(), &format!("{status:?}"))?;
        for who in [&self.bob, &self.carol] {
            who.until_asked(async || Ok(device_seen_by(who, other).await?.filter(Device::is_cross_signed_by_owner)))
                .await?;
        }
        Ok(())
    }

    async fn every_device_reads_what_is_said(&self, (alices, bobs): (&Person, &Person), when: &str) -> Outcome {
        let all = [&self.alice, &self.bob, &self.carol, alices, bobs];
        for (number, speaker) in all.into_iter().enumerate() {
            let body = format!("{when} from device {number}");
            let room = speaker.room_in(&self.room_id, RoomState::Joined).await?;
            let sent = room.send(RoomMessageEventContent::text_plain(&body)).await?;
            assert_that(sent.encryption_info.is_some(), "sent in the clear")?;
            for listener in all {
                listener.hears(&body).await?;
            }
        }
        Ok(())
    }

    async fn a_new_device_reads_the_past_from_the_backup(&self, url: &str, past: &str) -> Outcome {
        let recovery = self.alice.client.encryption().recovery();
        let key = recovery.enable().wait_for_backups_to_upload().await?;
        let fresh = Person::signs_in(url, self.alice.id()?).await?;
        fresh.client.encryption().recovery().recover(&key).await?;
        let room = fresh.room_in(&self.room_id, RoomState::Joined).await?;
        fresh.client.encryption().backups().download_room_keys_for_room(&self.room_id).await?;
        let mut options = MessagesOptions::backward();
        options.limit = UInt::from(100_u32);
        let page = room.messages(options).await?;
        let read = page.chunk.iter().filter(|event| event.raw().json().get().contains(past)).count();
        assert_that(read == 5, &format!("read {read} messages"))
    }

    async fn two_compare_emoji(&self) -> Outcome {
        let (alice, carol) = (&self.alice, &self.carol);
        bootstraps(carol).await?;
        alice
            .until_asked(async || {
                let device = device_seen_by(alice, carol).await?.filter(Device::is_cross_signed_by_owner);
                Ok(identity_seen_by(alice, carol.id()?).await?.and(device))
            })
            .await?;
        let methods = vec![VerificationMethod::SasV1];
        let device = device_seen_by(alice, carol).await?.ok_or("no device")?;
        let hers = device.request_verification_with_methods(methods.clone()).await?;
        let (alice_id, encryption) = (alice.id()?, carol.client.encryption());
        let theirs =
            carol.until_asked(async || Ok(encryption.get_verification_request(alice_id, hers.flow_id()).await)).await?;
        theirs.accept_with_methods(methods).await?;
        alice.until(|_| hers.is_ready().then_some(())).await?;
        let shown = hers.start_sas().await?.ok_or("no emoji")?;
        let compared = carol
            .until_asked(async || {
                let verification = encryption.get_verification(alice_id, hers.flow_id()).await;
                Ok(verification.and_then(Verification::sas))
            })
            .await?;
        compared.accept().await?;
        let emoji = alice.until(|_| shown.emoji()).await?.map(|emoji| emoji.symbol);
        let same = carol.until(|_| compared.emoji()).await?.map(|emoji| emoji.symbol);
        assert_that(emoji == same, &format!("{emoji:?} and {same:?}"))?;
        shown.confirm().await?;
        compared.confirm().await?;
        alice.until(|_| shown.is_done().then_some(())).await?;
        carol.until(|_| compared.is_done().then_some(())).await?;
        for (who, other) in [(alice, carol), (carol, alice)] {
            who.until_asked(async || Ok(identity_seen_by(who, other.id()?).await?.filter(UserIdentity::is_verified)))
                .await?;
        }
        Ok(())
    }

    async fn a_removed_device_is_seen_going(&self, other: &Person) -> Outcome {
        let device_id = other.client.device_id().ok_or("no device")?.to_owned();
        let challenge = self.bob.client.delete_devices(std::slice::from_ref(&device_id), None).await;
        let session = challenge.err().and_then(|error| error.as_uiaa_response()?.session.clone());
        self.bob.client.delete_devices(&[device_id], Some(proof(&self.bob, session)?)).await?;
        for who in [&self.alice, &self.bob, &self.carol] {
            let bob = self.bob.id()?;
            who.until_asked(async || Ok((devices_seen_by(who, bob).await? == 1).then_some(()))).await?;
        }
        Ok(())
    }

    async fn reset_keys_are_a_new_identity(&self) -> Outcome {
        let (alice, bob) = (&self.alice, self.bob.id()?);
        let before = identity_seen_by(alice, bob).await?.ok_or("nobody")?;
        let handle = self.bob.client.encryption().reset_cross_signing().await?.ok_or("it took no password")?;
        let CrossSigningResetAuthType::Uiaa(challenge) = handle.auth_type() else {
            return Err("another way of proving it".into());
        };
        handle.auth(Some(proof(&self.bob, challenge.session.clone())?)).await?;
        let after = alice
            .until_asked(async || {
                let seen = identity_seen_by(alice, bob).await?;
                Ok(seen.filter(|seen| seen.master_key().get_first_key() != before.master_key().get_first_key()))
            })
            .await?;
        assert_that(!after.is_verified() && after.has_verification_violation(), "still verified")
    }
}

/// Takes the steps one after the other; `None` when one failed.
pub async fn trust(url: &str) -> Option<()> {
    let circle = step("three meet in an encrypted room", three_meet_in_an_encrypted_room(url)).await?;
    step("devices publish their keys", circle.devices_publish_their_keys()).await?;
    let (alices, bobs) = step("further devices are seen", circle.further_devices_are_seen(url)).await?;
    step("identities are published", circle.identities_are_published()).await?;
    step("a user verifies another", circle.a_user_verifies_another()).await?;
    step("a user signs their other device", circle.a_user_signs_their_other_device(&bobs)).await?;
    step("a device is restored from secret storage", circle.a_device_is_restored_from_secret_storage(&alices)).await?;
    let others = (&alices, &bobs);
    step("every device reads what is said", circle.every_device_reads_what_is_said(others, "at first")).await?;
    step(
        "a new device reads the past from the backup",
        circle.a_new_device_reads_the_past_from_the_backup(url, "at first"),
    )
    .await?;
    step("two compare emoji", circle.two_compare_emoji()).await?;
    step("a removed device is seen going", circle.a_removed_device_is_seen_going(&bobs)).await?;
    step("reset keys are a new identity", circle.reset_keys_are_a_new_identity()).await
}
