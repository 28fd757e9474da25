# frozen_string_literal: true

# Stock: GET /stock/<n> says how many are left.
#
# WEBrick with one thread per connection. Nothing in it knows about tracing.

require "json"
require "socket"
require "webrick"

# Answers GET /stock/<n>.
class Stock < WEBrick::HTTPServlet::AbstractServlet
  def do_GET(request, response)
    number = request.path[%r{\A/stock/([0-9]{1,9})\z}, 1]&.to_i
    response["content-type"] = "application/json"
    if number.nil?
      response.status = 404
      response.body = JSON.generate(error: "no such item")
      return
    end
    sleep(milliseconds(number) / 1000.0)
    response.status = 200
    response.body = JSON.generate(item: number, left: number % 17, shelf: "#" * (number % 32))
  end

  private

  # Most answers are quick, some are slow, a few are very slow: several buckets are hit.
  def milliseconds(number)
    return 120 if (number % 97).zero?
    return 30 if (number % 11).zero?

    number % 5
  end
end

server = WEBrick::HTTPServer.new(
  BindAddress: "0.0.0.0",
  Port: Integer(ENV.fetch("PORT", "8080")),
  MaxClients: 512,
  DoNotReverseLookup: true,
  AccessLog: [],
  Logger: WEBrick::Log.new($stderr, WEBrick::Log::WARN),
  # Head and body are two writes; without this the second waits for the first one's ACK.
  AcceptCallback: ->(socket) { socket.setsockopt(Socket::IPPROTO_TCP, Socket::TCP_NODELAY, 1) }
)
server.listeners.each { |listener| listener.listen(256) }
server.mount("/", Stock)
%w[INT TERM].each { |signal| trap(signal) { server.shutdown } }
server.start
