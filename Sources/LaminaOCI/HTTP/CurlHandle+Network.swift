import CCurl
import Glibc

extension CurlHandle {
    /// Which certificates to trust, and which certificate to show.
    func setTLS(_ tls: TLSSettings) {
        if tls.skipsVerification {
            set(CURLOPT_SSL_VERIFYPEER, 0)
            set(CURLOPT_SSL_VERIFYHOST, 0)
        }
        if let only = tls.authorities.first, tls.authorities.count == 1, tls.authorityText == nil {
            // The system's certificates stay trusted through their directory, CURLOPT_CAPATH, as in containerd.
            set(CURLOPT_CAINFO, only)
        } else if !tls.authorities.isEmpty || tls.authorityText != nil {
            setAuthorities(tls.authorities, tls.authorityText ?? "")
        }
        if let text = tls.clientText {
            set(CURLOPT_SSLCERT_BLOB, text.revealed.utf8)
            set(CURLOPT_SSLKEY_BLOB, text.revealed.utf8)
        } else if let client = tls.clients.first {
            set(CURLOPT_SSLCERT, client.certificate)
            set(CURLOPT_SSLKEY, client.key ?? client.certificate)
        }
    }

    /// Whether the last exchange opened a connection, and finished its TLS handshake.
    var hasShakenHands: Bool {
        var (connections, microseconds) = (0, Int64(0))
        _ = lamina_curl_get_long(easy, CURLINFO_NUM_CONNECTS, &connections)
        _ = lamina_curl_get_offset(easy, CURLINFO_APPCONNECT_TIME_T, &microseconds)
        return connections > 0 && microseconds > 0
    }

    /// libcurl takes one file, or the text of several.
    private func setAuthorities(_ paths: [String], _ more: String) {
        var text = Array(more.utf8)
        for path in paths {
            guard let file = try? LayoutFile(reading: path), let bytes = try? file.readAll(limit: 16 << 20) else {
                // The error that follows names the missing file.
                set(CURLOPT_CAINFO, path)
                return
            }
            text += [0x0A] + bytes
        }
        set(CURLOPT_CAINFO_BLOB, text)
    }

    /// libcurl copies the bytes.
    private func set(_ option: CURLoption, _ bytes: some Sequence<UInt8>) {
        var bytes = Array(bytes)
        bytes.withUnsafeMutableBytes { bytes in
            var blob = curl_blob(data: bytes.baseAddress, len: bytes.count, flags: UInt32(CURL_BLOB_COPY))
            withUnsafeMutablePointer(to: &blob) { _ = lamina_curl_set_pointer(easy, option, $0) }
        }
    }

    /// libcurl itself reads `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` from the environment. This code adds what
    /// Go's programs also do: they know `HTTP_PROXY`, and never use a proxy for this machine.
    func setProxy(for url: String) {
        guard let origin = Origin(of: url) else { return }
        if ImageReference.isLoopback(host: origin.authority) {
            set(CURLOPT_NOPROXY, "*")
        } else if origin.scheme == "http", getenv("http_proxy") == nil, getenv("REQUEST_METHOD") == nil,
            let proxy = getenv("HTTP_PROXY"), proxy[0] != 0
        {
            // If REQUEST_METHOD is set this is a CGI program, and HTTP_PROXY is a header from its client.
            set(CURLOPT_PROXY, String(cString: proxy))
        }
    }
}
