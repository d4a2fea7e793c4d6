// SPDX-License-Identifier: Apache-2.0
// The command page: allocsd's page in a browser. A server is on a Unix socket, which browsers don't know; this command
// stands between the two, as whoever runs it, and ends with ^C (Front/Front.swift).

import Answers
import ArgumentParser
import ByteText
import Front
import Glibc
import ServerProtocol
import SystemAccess

struct PageCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "page",
    abstract: "Look at live memory in a browser.",
    usage: """
      allocsctl page [<pid>] [--listen <address:port>] [--token-file <file>]
                      [--socket <path>]
      """,
    discussion: """
      Prints a link to the page of allocsd, which must run, and passes on what the browser asks until ^C. Whoever has \
      the link may ask what you may ask: the token in it is made anew each time. From another machine, forward the \
      port: ssh -L 8080:127.0.0.1:8080 HOST. Addresses other than this machine's own are listened at only with \
      --token-file, as the token goes over the network in the clear.

      Examples:
        allocsctl page
        allocsctl page 4242 --listen 127.0.0.1:8080
      """)

  @Argument(help: "The process to begin with.", transform: processID)
  var pid: Int32?

  @Option(help: .init("Listen here; port 0 is a free one.", valueName: "address:port"))
  var listen = "127.0.0.1:0"

  @Option(
    help: .init("Take the token from this file's first line, and don't print it.", valueName: "file"),
    completion: .file())
  var tokenFile: String?

  @Option(help: .init("Ask the server at this socket.", valueName: "path"), completion: .file())
  var socket: String?

  func run() throws {
    let entrance = try Entrance(listen: listen, tokenFile: tokenFile)
    let server = try server()
    let (listener, link) = try entrance.open(fields: pid.map { ["process=\($0)"] } ?? [])
    defer { close(listener) }
    // Before the thread that waits for signals: Swift makes none.
    let interruption = Interruption()
    let stop = Signal()
    interruption.onInterruption { stop.set() }
    signal(SIGPIPE, SIG_IGN)
    try StandardOutput.write("\(link)\n")
    if entrance.hasTokenFile { complain("put #token= and the token behind the address, once in each tab") }
    Front(listener: listener, token: entrance.token) { () throws(Complaint) in
      try UnixSocket.connected(to: server.path, isTrusted: server.isTrusted).release()
    }.run(control: stop.descriptor) { false }
  }

  /// The socket of the first server that takes connections. One that was named is trusted by that.
  private func server() throws(Complaint) -> (path: String, isTrusted: Bool) {
    if let named = SocketLocation.named(socket) {
      _ = try UnixSocket.connected(to: named)
      return (named, false)
    }
    for path in SocketLocation.defaults {
      do throws(Complaint) {
        _ = try UnixSocket.connected(to: path, isTrusted: true)
        return (path, true)
      } catch {
        guard ![ENOENT, ENOTDIR, ECONNREFUSED, EACCES].contains(error.code) else { continue }
        complain("\(error.what); it is passed over")
      }
    }
    throw Complaint(
      .obstacle, what: "no allocsd answers: there is none at \(SocketLocation.defaults.joined(separator: ", "))",
      advice: "start one (`allocsd &`), or name its --socket")
  }
}
