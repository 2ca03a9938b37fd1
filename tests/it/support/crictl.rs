//! crictl's calls over grpc-go, the library that crictl and kubelets are made of: `tests/crictl`, built by Debian's Go.

use super::cri::Cri;
use super::peers::{Said, run};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where it is built: kept from one run of the tests to the next.
const WORKSHOP: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/crictl");
/// Debian's libraries for Go, which are built from without a module proxy.
const LIBRARIES: &str = "/usr/share/gocode";

/// A client of one service.
pub(crate) struct Crictl {
    program: PathBuf,
    options: Vec<String>,
}

impl Crictl {
    /// For `api`, `v1` or `v1alpha2`; with the socket's path as the authority, as old ones have it, unless another is given.
    pub(crate) fn new(cri: &Cri, api: &str, authority: Option<&str>) -> Self {
        Self::at(&cri.socket(), api, authority)
    }

    /// For the service of another program.
    pub(crate) fn at(socket: &Path, api: &str, authority: Option<&str>) -> Self {
        let endpoint = format!("unix://{}", socket.display());
        let mut options = vec!["--image-endpoint".to_owned(), endpoint, "--api".to_owned(), api.to_owned()];
        options.extend(authority.into_iter().flat_map(|name| ["--authority".to_owned(), name.to_owned()]));
        Self { program: built(), options }
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        let all = self.options.iter().map(String::as_str).chain(arguments.iter().copied());
        run(&self.program.display().to_string(), all)
    }

    /// Runs a command that must succeed; its standard output.
    pub(crate) fn succeed(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert!(said.status.success(), "{:?} {arguments:?}:\n{}{}", self.options, said.stdout, said.stderr);
        said.stdout
    }

    /// Runs commands one after the other over one connection; what they printed together.
    pub(crate) fn session(&self, commands: &[String]) -> String {
        let mut command = Command::new(&self.program);
        command.args(&self.options).arg("-").stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all((commands.join("\n") + "\n").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{:?}:\n{out}{err}", self.options);
        out.into_owned()
    }
}

/// The program, built unless it is there and newer than what it is made of. Tests are processes of their own: the first builds, the others wait.
fn built() -> PathBuf {
    let (workshop, program) = (Path::new(WORKSHOP), Path::new(WORKSHOP).join("crictl"));
    std::fs::create_dir_all(workshop.join("src/cri")).unwrap();
    let lock = std::fs::File::create(workshop.join("lock")).unwrap();
    lock.lock().unwrap();
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (source, protocol) = (home.join("tests/crictl/main.go"), home.join("src/cri/proto"));
    let changed = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    let made = changed(&program).ok();
    let parts = [&source, &protocol.join("runtime.proto")].map(|path| changed(path).unwrap());
    if made.is_some_and(|made| parts.iter().all(|part| *part < made)) {
        return program;
    }
    let messages = format!("--go_out={}", workshop.join("src/cri").display());
    done(Command::new("protoc").arg("-I").arg(&protocol).arg(messages).arg("runtime.proto"));
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&program).arg(&source);
    go.env("GOPATH", format!("{WORKSHOP}:{LIBRARIES}")).env("GO111MODULE", "off").env("GOFLAGS", "");
    done(go.env("GOCACHE", workshop.join("cache")).env("CGO_ENABLED", "0"));
    program
}

fn done(command: &mut Command) {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output =
        output.unwrap_or_else(|error| panic!("{name} can't be run ({error}); scripts/peers.sh installs it"));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}
