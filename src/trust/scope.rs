//! The scopes of a policy that apply to an image, the most specific first (containers-policy.json(5), "docker:").

use super::identity::ImageName;

/// The transport of images in registries.
pub(super) const TRANSPORT: &str = "docker";

/// The scopes of `image`: the image itself, its repository, each namespace, the registry, and wildcards of its host.
pub(super) fn scopes(image: &ImageName) -> Vec<String> {
    let mut scopes = vec![image.to_string()];
    let mut name = image.repository();
    loop {
        scopes.push(name.to_owned());
        match name.rfind('/') {
            Some(slash) => name = &name[..slash],
            None => break,
        }
    }
    // Wildcards have no port.
    let mut host = name.split(':').next().unwrap_or(name);
    while let Some((_, parent)) = host.split_once('.') {
        scopes.push(format!("*.{parent}"));
        host = parent;
    }
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Reference;

    #[test]
    fn scopes_are_those_of_podman() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (image, expected) in [
            (
                "registry.example.com:5000/ns/app:1.0".to_owned(),
                vec![
                    "registry.example.com:5000/ns/app:1.0".to_owned(),
                    "registry.example.com:5000/ns/app".to_owned(),
                    "registry.example.com:5000/ns".to_owned(),
                    "registry.example.com:5000".to_owned(),
                    "*.example.com".to_owned(),
                    "*.com".to_owned(),
                ],
            ),
            (
                "busybox".to_owned(),
                vec![
                    "docker.io/library/busybox:latest".to_owned(),
                    "docker.io/library/busybox".to_owned(),
                    "docker.io/library".to_owned(),
                    "docker.io".to_owned(),
                    "*.io".to_owned(),
                ],
            ),
            // A tag beside a digest does not count.
            (
                format!("localhost/app:1@{digest}"),
                vec![format!("localhost/app@{digest}"), "localhost/app".to_owned(), "localhost".to_owned()],
            ),
        ] {
            let name = ImageName::intended(&Reference::parse(&image).unwrap());
            assert_eq!(scopes(&name), expected, "{image}");
        }
    }
}
