// SPDX-License-Identifier: Apache-2.0
// Names of sockets, and who is at their other end.

import Glibc
import ServerProtocol
import SystemAccess
import TestSupport
import Testing

@Suite("Unix sockets", .bounded)
struct UnixSocketTests {
  @Test("a path is taken whole or refused, never cut")
  func pathLimit() throws {
    for size in [1, 106, 107] {
      let path = String(repeating: "a", count: size)
      let length = try UnixSocket.withAddress(of: path) { address, _ in
        address.withMemoryRebound(to: sockaddr_un.self, capacity: 1) { pointer in
          var copy = pointer.pointee.sun_path
          return withUnsafeBytes(of: &copy) { Int32($0.prefix { $0 != 0 }.count) }
        }
      }
      #expect(length == Int32(size))
    }
    for path in ["", String(repeating: "a", count: 108), String(repeating: "a", count: 5000), "a\0b"] {
      #expect(throws: Complaint.self) { try UnixSocket.withAddress(of: path) { _, _ in 0 } }
    }
  }

  @Test("connecting to nothing says ENOENT and what to do")
  func nobodyThere() {
    do throws(Complaint) {
      _ = try UnixSocket.connected(to: "/nonexistent/allocsd.sock")
      Issue.record("connected")
    } catch {
      #expect(error.code == ENOENT)
      #expect(error.description.contains("/nonexistent/allocsd.sock"))
      #expect(error.description.contains(" — "))
    }
  }

  /// A socket that listens at a path of its own and takes no connections.
  private func listening(_ queue: Int32, _ body: (String, Int32) throws -> Void) throws {
    let path = unusedPath("socket")
    let server = try UnixSocket.create()
    #expect(try UnixSocket.withAddress(of: path) { bind(server.descriptor, $0, $1) } == 0)
    defer { unlink(path) }
    #expect(listen(server.descriptor, queue) == 0)
    try body(path, server.descriptor)
  }

  @Test("a server whose queue is full is waited for, and not for ever")
  func fullQueue() throws {
    try listening(0) { path, _ in
      let first = try UnixSocket.connected(to: path)
      do throws(Complaint) {
        _ = try UnixSocket.connected(to: path)
        Issue.record("connected")
      } catch {
        #expect(error.code == EAGAIN && error.what.contains("did not take the connection"))
      }
      withExtendedLifetime(first) {}
    }
  }

  @Test("nothing is connected to the socket of a stranger, nor to what is no socket", .enabled(if: geteuid() == 0))
  func stranger() throws {
    try listening(5) { path, server in
      chown(path, 12_345, 12_345)
      do throws(Complaint) {
        _ = try UnixSocket.connected(to: path, isTrusted: true)
        Issue.record("connected")
      } catch {
        #expect(error.code == EPERM && error.what.contains("belongs to user 12345"))
      }
      #expect(fcntl(server, F_SETFL, O_NONBLOCK) == 0 && accept(server, nil, nil) == -1 && errno == EAGAIN)
      let link = path + "-link"
      symlink(path, link)
      defer { unlink(link) }
      #expect(throws: Complaint.self) { _ = try UnixSocket.connected(to: link, isTrusted: true) }
      _ = try UnixSocket.connected(to: link)
      chown(path, 0, 0)
      _ = try UnixSocket.connected(to: path, isTrusted: true)
    }
    #expect(throws: Complaint.self) { _ = try UnixSocket.connected(to: "/dev/null") }
  }

  @Test("the peer of a connection is the process that made it")
  func peer() throws {
    var descriptors: [Int32] = [0, 0]
    #expect(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &descriptors) == 0)
    let end = UnixSocket(adopting: descriptors[0])
    let otherEnd = UnixSocket(adopting: descriptors[1])
    #expect(try end.peer() == Peer(processID: getpid(), userID: geteuid()))
    #expect(try otherEnd.peer() == end.peer())
  }

  @Test("a socket that was given away is not closed")
  func release() throws {
    let socket = try UnixSocket.create()
    let descriptor = socket.release()
    #expect(fcntl(descriptor, F_GETFD) & FD_CLOEXEC != 0)
    close(descriptor)
  }
}
