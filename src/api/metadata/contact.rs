//! Email addresses of accounts: whose each is, decided here, for an address is one account's. Those of an account that
//! is deactivated its User has removed, with `NoContacts`. Spec: "Adding Account Administrative Contact Information".

use domain::contact::Email;
use platform::{Fault, Metadata, Row, Statement};
use ruma_common::{OwnedUserId, UserId};

/// The most addresses of one account.
pub(crate) const CONTACTS_MAX: u64 = 20;

/// An address of an account.
pub(crate) struct Contact {
    pub address: String,
    pub validated_ms: u64,
    pub added_ms: u64,
}

/// What became of a wish for an address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// It is the account's.
    Ours,
    /// It is another account's.
    Taken,
    /// The account has [`CONTACTS_MAX`].
    TooMany,
}

/// Whose an address is.
pub(crate) async fn owner(metadata: &dyn Metadata, email: &Email) -> Result<Option<OwnedUserId>, Fault> {
    let statement = Statement::new(
        "SELECT user_id FROM contact WHERE medium = 'email' AND address = ?1",
        vec![email.as_str().into()],
    );
    metadata.query(statement).await?.pop().map(user).transpose()
}

fn user(mut row: Row) -> Result<OwnedUserId, Fault> {
    OwnedUserId::try_from(row.text(0)?).map_err(|error| Fault::new(format!("a stored id: {error}")))
}

/// Makes an address an account's: one statement decides, however many try at once.
pub(crate) async fn add(
    metadata: &dyn Metadata,
    user_id: &UserId,
    address: &str,
    validated_ms: u64,
    now_ms: u64,
) -> Result<Added, Fault> {
    let statement = Statement::new(
        "INSERT INTO contact (medium, address, user_id, validated_ms, added_ms) SELECT 'email', ?1, ?2, ?3, ?4
         WHERE (SELECT count(*) FROM contact WHERE user_id = ?2) < ?5
         ON CONFLICT (medium, address) DO UPDATE SET address = excluded.address RETURNING user_id",
        vec![address.into(), user_id.as_str().into(), validated_ms.into(), now_ms.into(), CONTACTS_MAX.into()],
    );
    Ok(match metadata.query(statement).await?.pop().map(user).transpose()? {
        None => Added::TooMany,
        Some(owner) if owner == user_id => Added::Ours,
        Some(_) => Added::Taken,
    })
}

/// The addresses of an account, in the order in which they came.
pub(crate) async fn of_user(metadata: &dyn Metadata, user_id: &UserId) -> Result<Vec<Contact>, Fault> {
    let statement = Statement::new(
        "SELECT address, validated_ms, added_ms FROM contact WHERE user_id = ?1 ORDER BY added_ms, address LIMIT ?2",
        vec![user_id.as_str().into(), CONTACTS_MAX.into()],
    );
    let contact = |mut row: Row| {
        Ok(Contact { address: row.text(0)?, validated_ms: row.unsigned(1)?, added_ms: row.unsigned(2)? })
    };
    metadata.query(statement).await?.into_iter().map(contact).collect()
}

/// Takes an address from an account.
pub(crate) async fn remove(metadata: &dyn Metadata, user_id: &UserId, email: &Email) -> Result<(), Fault> {
    let statement = Statement::new(
        "DELETE FROM contact WHERE medium = 'email' AND address = ?1 AND user_id = ?2",
        vec![email.as_str().into(), user_id.as_str().into()],
    );
    metadata.query(statement).await.map(drop)
}

#[cfg(test)]
mod tests {
    use domain::contact::Email;
    use ruma_common::user_id;

    use super::{Added, CONTACTS_MAX, add, of_user, owner, remove};
    use crate::testing::with_metadata;

    #[test]
    fn an_address_is_one_accounts() {
        with_metadata(async |metadata| {
            let (alice, bob) = (user_id!("@alice:a"), user_id!("@bob:a"));
            let email = Email::parse("tea@example.org").unwrap();
            let adds = async |user, address: &str| add(metadata, user, address, 1, 2).await.unwrap();
            assert_eq!(owner(metadata, &email).await.unwrap(), None);
            assert_eq!(adds(alice, email.as_str()).await, Added::Ours);
            assert_eq!(adds(alice, email.as_str()).await, Added::Ours, "repeated");
            assert_eq!(adds(bob, email.as_str()).await, Added::Taken);
            assert_eq!(owner(metadata, &email).await.unwrap().as_deref(), Some(alice));
            remove(metadata, bob, &email).await.unwrap();
            assert_eq!(of_user(metadata, alice).await.unwrap().len(), 1);
            remove(metadata, alice, &email).await.unwrap();
            assert_eq!(adds(bob, email.as_str()).await, Added::Ours);
            for number in 1..CONTACTS_MAX {
                assert_eq!(adds(bob, &format!("{number}@example.org")).await, Added::Ours);
            }
            assert_eq!(adds(bob, "more@example.org").await, Added::TooMany);
        });
    }
}
