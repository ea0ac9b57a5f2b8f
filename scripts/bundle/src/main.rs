//! Turns the compiled Worker into `build/`: the wasm module, its JavaScript glue and our entry module.
//!
//! `bundle WASM OUT_DIR ENTRY GZIP_BYTES_MAX`. It links wasm-bindgen's own library, so its version is the
//! crate's by Cargo.lock, and nothing is downloaded. Fails when the bundle outgrows its budget.

use std::{
    error::Error,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use wasm_bindgen_cli_support::Bindgen;

struct Task {
    wasm: PathBuf,
    out_dir: PathBuf,
    entry: PathBuf,
    gzip_bytes_max: u64,
}

/// A change to the generated glue.
struct Patch {
    old: &'static str,
    new: &'static str,
}

const PATCHES: [Patch; 3] = [
    // The runtime takes compiled modules by a plain import; its tools do not parse the source phase.
    Patch { old: "import source ", new: "import " },
    // A callback that outlived its instance (a timer, a socket) must not run in the next one. The check is
    // made before the instance is replaced, so it would let the first such callback through.
    Patch {
        old: "if (state.instance !== __wbg_instance_id) {",
        new: "__wbg_call_guard();\n        if (state.instance !== __wbg_instance_id) {",
    },
    // And it has nobody to tell.
    Patch { old: "throw new Error('Cannot invoke closure from previous WASM instance');", new: "return;" },
];

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let outcome = Task::parse(&arguments).and_then(|task| task.run());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bundle: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Task {
    fn parse(arguments: &[OsString]) -> Result<Self, Box<dyn Error>> {
        let [wasm, out_dir, entry, gzip_bytes_max] = arguments else {
            return Err("usage: bundle WASM OUT_DIR ENTRY GZIP_BYTES_MAX".into());
        };
        let gzip_bytes_max = gzip_bytes_max.to_string_lossy().parse()?;
        Ok(Self { wasm: wasm.into(), out_dir: out_dir.into(), entry: entry.into(), gzip_bytes_max })
    }

    fn run(&self) -> Result<(), Box<dyn Error>> {
        if self.out_dir.exists() {
            fs::remove_dir_all(&self.out_dir)?;
        }
        let mut bindgen = Bindgen::new();
        bindgen
            .input_path(&self.wasm)
            .out_name("index")
            .typescript(false)
            .remove_name_section(true)
            .remove_producers_section(true)
            // A trap is answered and survived: the entry module fails what was in flight and starts afresh.
            .reset_state_function(true)
            .force_enable_abort_handler(true)
            .module(true)?;
        // Its errors are `anyhow`'s, which this crate does not name.
        bindgen.generate(&self.out_dir).map_err(|error| format!("{error:#}"))?;

        let glue = self.out_dir.join("index.js");
        let mut text = fs::read_to_string(&glue)?;
        for Patch { old, new } in PATCHES {
            if !text.contains(old) {
                return Err(format!("the glue has no longer: {old}").into());
            }
            text = text.replace(old, new);
        }
        fs::write(&glue, text)?;
        fs::copy(&self.entry, self.out_dir.join("entry.mjs"))?;

        let wasm = self.out_dir.join("index_bg.wasm");
        let (raw, gzip) = (fs::metadata(&wasm)?.len(), gzip_bytes(&wasm)?);
        eprintln!("bundle: {raw} bytes of wasm, {gzip} gzipped ({} allowed)", self.gzip_bytes_max);
        if gzip > self.gzip_bytes_max {
            return Err(format!("{gzip} bytes gzipped are more than {}", self.gzip_bytes_max).into());
        }
        Ok(())
    }
}

/// The file's size after gzip, in bytes, as the platform counts scripts.
fn gzip_bytes(path: &Path) -> io::Result<u64> {
    let mut gzip = Command::new("gzip").arg("-9c").arg(path).stdout(Stdio::piped()).spawn()?;
    let bytes = match gzip.stdout.as_mut() {
        Some(output) => io::copy(output, &mut io::sink())?,
        None => 0,
    };
    gzip.wait()?;
    Ok(bytes)
}
