//! Signing and verifying bundles with programs of the user.

use crate::bundle::{BundleSigner, BundleVerifier, MAX_SIGNATURE};
use crate::error::{Error, ErrorKind, Result};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// The variable with the name of the file of the signature.
const SIGNATURE: &str = "SAVER_SIGNATURE";

/// Signs with a shell command, which reads `bundle.json` from stdin and writes the signature to stdout.
pub(super) struct CommandSigner(pub(super) String);

/// Verifies with a shell command, which reads `bundle.json` from stdin, and the signature from the file that `SAVER_SIGNATURE` names.
pub(super) struct CommandVerifier(pub(super) String);

impl BundleSigner for CommandSigner {
    fn sign(&self, document: &[u8]) -> Result<Vec<u8>> {
        let signature = run("--sign-with", &self.0, document, None)?;
        if signature.is_empty() {
            let why = "the command wrote no signature to stdout";
            return Err(Error::new(ErrorKind::InvalidInput, "--sign-with", why));
        }
        Ok(signature)
    }
}

impl BundleVerifier for CommandVerifier {
    fn verify(&self, document: &[u8], signature: &[u8]) -> Result<()> {
        let failed = |cause| Error::storage("the signature", "write a temporary file for", cause);
        let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
        file.write_all(signature).and_then(|()| file.flush()).map_err(failed)?;
        run("--verify-with", &self.0, document, Some(file.path())).map(drop)
    }
}

/// Runs a command on a document; returns what it writes to stdout. Its stderr is ours.
fn run(option: &str, command: &str, document: &[u8], signature: Option<&Path>) -> Result<Vec<u8>> {
    let refuse = |why: String| Error::new(ErrorKind::InvalidInput, option, why);
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::piped()).stdout(Stdio::piped());
    if let Some(signature) = signature {
        shell.env(SIGNATURE, signature);
    }
    let mut child = shell.spawn().map_err(|cause| refuse(format!("cannot start a shell: {cause}")))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let mut output = Vec::new();
    let read = std::thread::scope(|scope| {
        // A command that does not read everything decides by its exit code.
        scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(document)));
        stdout.map_or(Ok(0), |stdout| stdout.take(MAX_SIGNATURE + 1).read_to_end(&mut output))
    });
    let status = child.wait().map_err(|cause| refuse(format!("cannot wait for the command: {cause}")))?;
    read.map_err(|cause| refuse(format!("cannot read what the command writes: {cause}")))?;
    if !status.success() {
        return Err(refuse(format!("the command failed: {status}")));
    }
    if output.len() as u64 > MAX_SIGNATURE {
        return Err(refuse(format!("the command wrote more than {MAX_SIGNATURE} bytes")));
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_decides_by_its_exit_code() {
        let document = vec![b'x'; 1 << 20];
        let signature = CommandSigner("wc -c".into()).sign(&document).unwrap();
        assert_eq!(String::from_utf8(signature.clone()).unwrap().trim(), "1048576");
        let verifier = CommandVerifier("wc -c | cmp - \"$SAVER_SIGNATURE\"".into());
        verifier.verify(&document, &signature).unwrap();
        assert!(verifier.verify(b"other", &signature).is_err());
        for command in ["true", "false", "cat; exit 3", "exec head -c 2000000 /dev/zero"] {
            let error = CommandSigner(command.into()).sign(&document).unwrap_err();
            assert_eq!(
                (error.kind(), error.subject()),
                (ErrorKind::InvalidInput, "--sign-with"),
                "{command}"
            );
        }
        CommandVerifier("true".into()).verify(&document, b"").unwrap();
    }
}
