// libcurl for Swift: its option and information calls take a variable argument list, which Swift cannot call, so each is here
// once for each type of argument. No policy. https://curl.se/libcurl/c/
#ifndef LAMINA_CCURL_H
#define LAMINA_CCURL_H

#include <curl/curl.h>
#include <stddef.h>
#include <stdint.h>

/// CURLOPT_WRITEFUNCTION and CURLOPT_HEADERFUNCTION: bytes, 1, count, the DATA pointer. Returns the count taken.
typedef size_t (*lamina_curl_receive)(char *bytes, size_t one, size_t count, void *context);

CURLcode lamina_curl_set_long(CURL *handle, CURLoption option, long value);
CURLcode lamina_curl_set_offset(CURL *handle, CURLoption option, int64_t value);
/// libcurl copies the string.
CURLcode lamina_curl_set_string(CURL *handle, CURLoption option, const char *value);
CURLcode lamina_curl_set_pointer(CURL *handle, CURLoption option, void *value);
/// libcurl keeps the list: it must outlive the transfer.
CURLcode lamina_curl_set_list(CURL *handle, CURLoption option, struct curl_slist *list);
CURLcode lamina_curl_set_receive(CURL *handle, CURLoption option, lamina_curl_receive function);

CURLcode lamina_curl_get_long(CURL *handle, CURLINFO info, long *value);
CURLcode lamina_curl_get_offset(CURL *handle, CURLINFO info, int64_t *value);
/// The string belongs to the handle.
CURLcode lamina_curl_get_string(CURL *handle, CURLINFO info, const char **value);

CURLMcode lamina_curl_multi_set_long(CURLM *multi, CURLMoption option, long value);

/// Takes the next finished transfer of `multi` (the result is in a union): 1 and its result, or 0 if none is left.
int lamina_curl_multi_finished(CURLM *multi, CURLcode *result);

#endif
