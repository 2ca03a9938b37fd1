//! `saver cri`: the Kubernetes image service, asked as kubelets and crictl ask.

mod abuse;
mod clients;
mod images;
mod pulls;
