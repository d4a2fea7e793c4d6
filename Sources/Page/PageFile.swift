// SPDX-License-Identifier: Apache-2.0
// The page and the description of the API: files that the server has in itself, so that it needs none at its place.

/// A file that is served as it is.
public struct PageFile: Sendable {
  /// The path in a request.
  public var path: String
  /// The value of Content-Type.
  public var mediaType: String
  public var bytes: [UInt8]

  private static let (html, css, script) = (
    "text/html; charset=utf-8", "text/css; charset=utf-8", "text/javascript; charset=utf-8"
  )

  private static let policy = """
    default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
    frame-ancestors 'none'; base-uri 'none'; form-action 'none'
    """

  /// The fields of a response with it: the page may load and ask nothing but its server, no other page may show it, and
  /// an upgraded server's page asks for what that server has.
  public var fields: [(name: String, value: String)] {
    [
      ("Content-Type", mediaType), ("Content-Security-Policy", Self.policy), ("X-Content-Type-Options", "nosniff"),
      ("Cache-Control", "no-cache"), ("Referrer-Policy", "no-referrer"),
      ("Cross-Origin-Resource-Policy", "same-origin"),
    ]
  }

  /// All files.
  public static let all = [
    PageFile(path: "/", mediaType: html, bytes: PackageResources.index_html),
    PageFile(path: "/page/page.css", mediaType: css, bytes: PackageResources.page_css),
    PageFile(path: "/page/page.js", mediaType: script, bytes: PackageResources.page_js),
    PageFile(path: "/page/api.js", mediaType: script, bytes: PackageResources.api_js),
    PageFile(path: "/page/parts.js", mediaType: script, bytes: PackageResources.parts_js),
    PageFile(path: "/page/time.js", mediaType: script, bytes: PackageResources.time_js),
    PageFile(path: "/page/flame.js", mediaType: script, bytes: PackageResources.flame_js),
    PageFile(path: "/page/map.js", mediaType: script, bytes: PackageResources.map_js),
    PageFile(path: "/page/change.js", mediaType: script, bytes: PackageResources.change_js),
    PageFile(path: "/page/memory.js", mediaType: script, bytes: PackageResources.memory_js),
    PageFile(path: "/page/process.js", mediaType: script, bytes: PackageResources.process_js),
    PageFile(path: "/openapi.json", mediaType: "application/json", bytes: PackageResources.openapi_json),
  ]
}
