import CCurl
import Synchronization

/// A libcurl transfer with its own connection cache: an easy handle in a multi handle.
///
/// With the multi handle the calling thread can check for a stop between events; `curl_easy_perform` would block for a second.
final class CurlHandle: @unchecked Sendable {
    // @unchecked: libcurl's handles may move between threads as long as one thread at a time uses them
    // (https://curl.se/libcurl/c/threadsafe.html); the pool hands each handle to one taker.
    let easy: UnsafeMutableRawPointer
    let multi: UnsafeMutableRawPointer
    /// libcurl writes its message about the last error here.
    let errorText: UnsafeMutablePointer<CChar>

    private static let isReady = curl_global_init(Int(CURL_GLOBAL_DEFAULT)) == CURLE_OK

    init() throws(OCIError) {
        guard Self.isReady, let easy = curl_easy_init() else { throw OCIError(.network, "libcurl does not start") }
        guard let multi = curl_multi_init() else {
            curl_easy_cleanup(easy)
            throw OCIError(.network, "libcurl does not start")
        }
        self.easy = easy
        self.multi = multi
        errorText = .allocate(capacity: Int(CURL_ERROR_SIZE))
        errorText.initialize(repeating: 0, count: Int(CURL_ERROR_SIZE))
        // A registry and the store that it redirects to.
        _ = lamina_curl_multi_set_long(multi, CURLMOPT_MAXCONNECTS, 4)
    }

    deinit {
        curl_easy_cleanup(easy)
        curl_multi_cleanup(multi)
        errorText.deallocate()
    }

    func set(_ option: CURLoption, _ value: Int) { _ = lamina_curl_set_long(easy, option, value) }

    func set(_ option: CURLoption, _ value: String) { _ = lamina_curl_set_string(easy, option, value) }
}

/// Idle handles by host, so that connections are reused.
final class CurlPool: Sendable {
    /// The process's pool.
    static let shared = CurlPool()

    // An idle handle keeps a socket and some 10 KiB; more transfers than this to one host at a time are rare.
    private static let idlePerHost = 16
    private static let idleHosts = 32

    private let idle = Mutex<[String: [CurlHandle]]>([:])

    /// Runs `body` with its own handle, with every option at its default.
    func withHandle<Result>(for host: String, _ body: (CurlHandle) throws -> Result) throws -> Result {
        let handle = try idle.withLock { $0[host]?.popLast() } ?? CurlHandle()
        defer {
            // Keeps the connections, drops the options.
            curl_easy_reset(handle.easy)
            let surplus = idle.withLock { idle -> [CurlHandle] in
                var surplus: [CurlHandle] = []
                if idle[host] == nil, idle.count >= Self.idleHosts, let other = idle.keys.first {
                    surplus = idle.removeValue(forKey: other) ?? []
                }
                if idle[host, default: []].count < Self.idlePerHost {
                    idle[host, default: []].append(handle)
                } else {
                    surplus.append(handle)
                }
                return surplus
            }
            // Sockets are closed outside the lock.
            withExtendedLifetime(surplus) {}
        }
        return try body(handle)
    }
}
