# A Homebrew formula. The release checklist replaces the version and both checksums.
class Saver < Formula
  desc "Mirror container images into a directory that a registry serves"
  homepage "https://docs.rs/saver"
  version "0.1.0"
  license "Apache-2.0"

  on_linux do
    on_intel do
      url "https://github.com/OWNER/saver/releases/download/v0.1.0/saver-0.1.0-x86_64-linux.tar.gz"
      sha256 "0000000000000000000000000000000000000000000000000000000000000000"
    end
    on_arm do
      url "https://github.com/OWNER/saver/releases/download/v0.1.0/saver-0.1.0-aarch64-linux.tar.gz"
      sha256 "0000000000000000000000000000000000000000000000000000000000000000"
    end
  end

  depends_on :linux

  def install
    bin.install "saver"
    man1.install Dir["man/man1/*"]
    bash_completion.install "completions/saver.bash" => "saver"
    zsh_completion.install "completions/_saver"
    fish_completion.install "completions/saver.fish"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/saver --version")
  end
end
