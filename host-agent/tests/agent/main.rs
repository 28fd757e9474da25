//! The agent's plumbing over real sockets: OTLP in, OTLP out, scrapes, configuration, shutdown.

mod backend;
mod configuration;
mod exchange;
mod export;
mod receive;
mod running;
mod scrape;
mod spans;
