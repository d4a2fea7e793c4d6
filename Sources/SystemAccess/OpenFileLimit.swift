// SPDX-License-Identifier: Apache-2.0
// The descriptors of a server at its start: the standard ones are open, and as many more may be as the system lets it.

import Glibc

public enum OpenFileLimit {
  /// No descriptor of the server's own may take the number of a standard stream that was closed at the start.
  public static func openStandardDescriptors() {
    while true {
      let descriptor = open("/dev/null", O_RDWR | O_CLOEXEC)
      guard 0...2 ~= descriptor else {
        if descriptor > 2 { close(descriptor) }
        return
      }
      _ = fcntl(descriptor, F_SETFD, 0)
    }
  }

  /// Raises this process's limit as far as it may, and returns it. The soft limit is low for the sake of programs that
  /// use select(2).
  public static func raise() -> Int {
    let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
    var limit = rlimit()
    guard getrlimit(resource, &limit) == 0 else { return 1024 }
    limit.rlim_cur = limit.rlim_max
    setrlimit(resource, &limit)
    getrlimit(resource, &limit)
    return Int(clamping: limit.rlim_cur)
  }
}
