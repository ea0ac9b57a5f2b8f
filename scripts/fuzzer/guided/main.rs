//! libFuzzer on one target: that which `MYELIN_FUZZ_TARGET` names. With `MYELIN_FUZZ_SEEDS`, a folder, it writes what
//! the target likes there instead; with neither, it lists all targets. Started by `scripts/fuzz`.

#![no_main]

use std::{env, fs, path::Path, process::exit, sync::OnceLock};

use libfuzzer_sys::fuzz_target;

/// A parser's name, things that it takes, and itself.
type Target = (&'static str, &'static [&'static [u8]], fn(&[u8]));

fn targets() -> impl Iterator<Item = &'static Target> {
    domain::fuzzing::TARGETS.iter().chain(actors::fuzzing::TARGETS).chain(api::fuzzing::targets())
}

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fuzz_target!(
    init: {
        let Ok(wanted) = env::var("MYELIN_FUZZ_TARGET") else {
            targets().for_each(|(name, _, _)| println!("{name}"));
            exit(0);
        };
        let Some((_, seeds, takes)) = targets().find(|(name, _, _)| *name == wanted) else {
            eprintln!("error: there is no target {wanted}");
            exit(2);
        };
        if let Ok(folder) = env::var("MYELIN_FUZZ_SEEDS") {
            for (number, seed) in seeds.iter().enumerate() {
                fs::write(Path::new(&folder).join(format!("seed-{number}")), seed).expect("the folder can be written to");
            }
            exit(0);
        }
        let _ = TARGET.set(*takes);
    },
    |bytes: &[u8]| {
        if let Some(takes) = TARGET.get() {
            takes(bytes);
        }
    }
);
