//! Passwords: argon2id, as PHC strings, computed in the request tier and never inside an actor.

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc},
};
use domain::{Refusal, config::PasswordHashCost};
use platform::Fault;

use crate::{Context, Failure};

/// The longest password, in bytes: hashing a longer one costs us more than it gains its user.
const PASSWORD_BYTES_MAX: usize = 512;

/// Refuses what may not become a password: with `M_WEAK_PASSWORD` what is shorter than configured, with
/// `M_INVALID_PARAM` what has more than 512 bytes.
pub(crate) fn check(cx: &Context, password: &str) -> Result<(), Refusal> {
    let least = cx.config().password_length_min;
    if password.chars().count() < least {
        return Err(Refusal::WeakPassword(format!("A password has at least {least} characters")));
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(Refusal::InvalidParam(format!("A password can have at most {PASSWORD_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// Hashes a new password with the configured cost.
///
/// # Errors
/// As [`check`].
pub(crate) async fn hash(cx: &Context, password: String) -> Result<String, Failure> {
    check(cx, &password)?;
    let argon2 = argon2(cx.config().password_hash_cost)?;
    let salt = cx.random::<16>()?;
    let hash = cx
        .heavy(move || match argon2.hash_password_with_salt(password.as_bytes(), &salt) {
            Ok(hash) => phc::PasswordHash::to_string(&hash).into_bytes(),
            Err(_) => Vec::new(),
        })
        .await?;
    String::from_utf8(hash)
        .ok()
        .filter(|hash| !hash.is_empty())
        .ok_or_else(|| Fault::new("a password could not be hashed").into())
}

/// Whether this is the password. Without a hash to check against it takes as long and is false: how long a login
/// takes does not tell whether a user exists.
pub(crate) async fn verify(cx: &Context, password: String, hash: Option<String>) -> Result<bool, Failure> {
    if password.len() > PASSWORD_BYTES_MAX {
        return Ok(false);
    }
    let argon2 = argon2(cx.config().password_hash_cost)?;
    let is_good = cx
        .heavy(move || match hash {
            // The hash says what it cost, whatever is configured now.
            Some(hash) => phc::PasswordHash::new(&hash)
                .is_ok_and(|hash| argon2.verify_password(password.as_bytes(), &hash).is_ok()),
            None => {
                let _ = std::hint::black_box(argon2.hash_password_with_salt(password.as_bytes(), &[0; 16]));
                false
            }
        })
        .await?;
    Ok(is_good)
}

fn argon2(cost: PasswordHashCost) -> Result<Argon2<'static>, Fault> {
    let params = Params::new(cost.memory_kib, cost.iterations, cost.parallelism, None)
        .map_err(|error| Fault::new(format!("PASSWORD_HASH_COST: {error}")))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use crate::testing::{TestServer, block_on};

    #[test]
    fn only_the_password_is_the_password() {
        let server = TestServer::new(&[]);
        let cx = server.context();
        block_on(async {
            let hash = super::hash(&cx, "open sesame".to_owned()).await.unwrap();
            assert!(hash.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{hash}");
            assert_ne!(hash, super::hash(&cx, "open sesame".to_owned()).await.unwrap(), "salted");
            for (password, good) in
                [("open sesame", true), ("Open sesame", false), ("", false), (&*"x".repeat(1000), false)]
            {
                assert_eq!(
                    super::verify(&cx, password.to_owned(), Some(hash.clone())).await.unwrap(),
                    good,
                    "{password}"
                );
            }
            assert!(!super::verify(&cx, "open sesame".to_owned(), None).await.unwrap());
            assert!(!super::verify(&cx, "open sesame".to_owned(), Some("no hash".to_owned())).await.unwrap());
            assert!(super::hash(&cx, String::new()).await.is_err());
            assert!(super::hash(&cx, "x".repeat(513)).await.is_err());
        });
    }
}
