# nix-build scripts/packaging: saver from this checkout, with manual pages and completions.
{ pkgs ? import <nixpkgs> { } }:

pkgs.rustPlatform.buildRustPackage {
  pname = "saver";
  version = (builtins.fromTOML (builtins.readFile ../../Cargo.toml)).package.version;
  src = pkgs.lib.cleanSource ../..;
  cargoLock.lockFile = ../../Cargo.lock;
  nativeBuildInputs = [ pkgs.cmake pkgs.installShellFiles ];
  # The tests need real registries and clients.
  doCheck = false;
  postInstall = ''
    $out/bin/saver man > saver.1
    installManPage saver.1
    installShellCompletion --cmd saver \
      --bash <($out/bin/saver completions bash) \
      --zsh <($out/bin/saver completions zsh) \
      --fish <($out/bin/saver completions fish)
  '';
  meta = {
    description = "Mirror container images into a directory that a registry serves";
    license = pkgs.lib.licenses.asl20;
    platforms = pkgs.lib.platforms.linux;
    mainProgram = "saver";
  };
}
