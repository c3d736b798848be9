import LaminaOCI

extension Configuration {
    /// Whether `[http] plain` lists the registry of a reference.
    func speaksPlainHTTP(_ reference: String) -> Bool {
        guard !http.plain.isEmpty, case .registry(let host, _)? = try? ImageReference(parsing: reference).place else {
            return false
        }
        return http.plain.contains(host)
    }
}
