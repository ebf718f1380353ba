//! The gRPC service, without a protocol compiler: one method, bytes there and back.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let method = Method::builder()
        .name("call")
        .route_name("Call")
        .input_type("Vec<u8>")
        .output_type("Vec<u8>")
        .codec_path("tonic_prost::ProstCodec")
        .build();
    Builder::new().compile(&[Service::builder().name("Bench").package("bench").method(method).build()]);
}
