// SPDX-License-Identifier: Apache-2.0
// Which source of answers a command uses: the options that name a source, and the choice without them.

import Answers
import ArgumentParser
import Glibc
import ServerProtocol
import SystemAccess

struct SourceOptions: ParsableArguments {
  @Option(
    help: .init("Ask the server at this socket, and no other way.", valueName: "path"), completion: .file())
  var socket: String?

  @Flag(help: "Read the segments directly, also if a server runs.")
  var direct = false

  func validate() throws {
    if direct, socket != nil { throw ValidationError("--direct and --socket exclude each other: give one of them.") }
  }

  /// The source of the answers. A server that was named must answer. Without a name, a server in one of the shared
  /// directories is asked if it runs as root or as the caller; else the segments are read directly. They are read
  /// directly also where ALLOCS_DIR names a directory of the caller's own, which a common server doesn't know.
  func source() throws(Complaint) -> any AnswerSource {
    if direct { return DirectSource() }
    if let socket {
      return ServerSource(try ServerConnection(path: socket, requireTrust: false))
    }
    let named = SocketLocation.named(nil)
    if named == nil, getenv("ALLOCS_DIR") != nil { return DirectSource() }
    for path in named.map({ [$0] }) ?? SocketLocation.defaults {
      do throws(Complaint) {
        return ServerSource(try ServerConnection(path: path, requireTrust: named == nil))
      } catch {
        // That nobody serves is no news; that somebody else pretends to, or that a server is stuck, is.
        guard ![ENOENT, ENOTDIR, ECONNREFUSED, EACCES].contains(error.code) else { continue }
        complain("\(error.what); it is passed over")
      }
    }
    return DirectSource()
  }

  /// Asks the source. What a server refuses for want of time or memory, this program then does itself, as where there
  /// is no server: an answer that is a file may have any length. A server that was named must answer.
  func asking<Result>(
    _ ask: (any AnswerSource) throws(Complaint) -> Result
  ) throws(Complaint) -> Result {
    let source = try source()
    do throws(Complaint) {
      return try ask(source)
    } catch {
      guard socket == nil, let server = source as? ServerSource, server.hasMetLimit else { throw error }
      complain("the server can't answer, so the index is read without it: \(error.what)")
      return try ask(DirectSource())
    }
  }
}
