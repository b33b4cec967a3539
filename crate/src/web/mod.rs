//! What only exists inside a Web Worker: fetch, IndexedDB, WebCrypto, Web Locks. No compute and no protocol rules.
