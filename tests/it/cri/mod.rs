//! `saver cri`: the Kubernetes image service, asked as kubelets and crictl ask.

mod abuse;
mod clients;
mod crictl;
mod images;
mod pulls;
