//! `saver cri`: the Kubernetes image service, as kubelets and crictl use it.

mod abuse;
mod clients;
mod crictl;
mod images;
mod pulls;
