//! Lists through the public interface, as a program that embeds saver reads them.

use saver::list;

#[test]
fn lists_of_several_formats_are_merged() {
    let read = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/lists").join(name);
        list::parse(name, &std::fs::read(path).unwrap())
    };
    let names = ["kubeadm.list", "windows.list", "imageListWithAuth.yaml", "kubeadm.list"];
    let all = list::merge(names.map(read));
    assert!(all.problems.is_empty(), "{:?}", all.problems);
    assert_eq!(all.entries.len(), 7 + 4 + 6);
    assert_eq!(all.duplicates.len(), 7, "each line of the second kubeadm.list is a duplicate");
    assert_eq!(all.entries.iter().filter(|entry| entry.credential.is_some()).count(), 5);
}

#[test]
fn failed_lines_read_back_as_the_same_list() {
    for name in ["kubeadm.list", "cilium.list", "rook.list", "kubesphere.list", "windows.list"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/lists").join(name);
        let first = list::parse(name, &std::fs::read(path).unwrap());
        let lines: Vec<String> = first
            .entries
            .iter()
            .map(|entry| list::failed_line(&entry.reference, entry.platforms.as_ref(), "because"))
            .collect();
        let second = list::parse(name, lines.join("\n").as_bytes());
        assert!(second.problems.is_empty() && second.notes.is_empty());
        let names = |parsed: &list::ImageList| {
            let key = |entry: &list::ListEntry| (entry.reference.to_string(), entry.platforms.clone());
            parsed.entries.iter().map(key).collect::<Vec<_>>()
        };
        assert_eq!(names(&first), names(&second), "{name}");
    }
}
