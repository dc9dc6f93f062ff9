//! Compiles the protocol's `.proto` files, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "failure",
        "subd",
        "object_server",
        "image_server",
        "dominator",
        "introspection",
        "logger",
        "replication",
    ]
    .map(|file| format!("dominator/v1/{file}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().bytes(".").codec_path("crate::wire::Codec").compile_fds(descriptors)?;
    Ok(())
}
