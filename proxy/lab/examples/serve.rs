//! Serves a lab: `serve DIR [ADDRESS]`. A folder that does not exist becomes the demonstration lab. Ends on Ctrl-C.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;

use lab::face::{Lab, endpoint_of};
use lab::world::{Template, World};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: serve DIR [ADDRESS]")?);
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:0".into());
    let listen: SocketAddr = listen.to_str().ok_or("the address is not text")?.parse()?;

    let world = if dir.join("lab.json").exists() { World::open(&dir)? } else { World::create(&dir, Template::Demo)? };
    let lab = Lab::serve(world, listen).await?;
    println!("{}", serde_json::to_string(&endpoint_of(&dir))?);
    tokio::signal::ctrl_c().await?;
    lab.stop().await;
    Ok(())
}
