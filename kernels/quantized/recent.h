// Recent: what an operator made for its last runs, so that a run like an earlier one makes nothing. Thread-safe.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "../scratch.h"

namespace nested_sparse {

template <class Key, class Made>
class Recent {
 public:
  // The result of make() for `key`.
  template <class Make>
  std::shared_ptr<const Made> get(const Key& key, const Make& make) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const Entry& entry : entries_) {
      if (entry.key == key) return entry.made;
    }
    Entry made{key, std::make_shared<const Made>(make())};
    count_scratch_allocation();
    if (entries_.size() < kMaxEntries) {
      entries_.push_back(std::move(made));
      return entries_.back().made;
    }
    Entry& place = entries_[oldest_++ % kMaxEntries];
    place = std::move(made);
    return place.made;
  }

 private:
  // A level that is lowered in mid-inference makes an entry of its own: an operator then reads images of a denser
  // level.
  static constexpr size_t kMaxEntries = 32;
  struct Entry {
    Key key;
    std::shared_ptr<const Made> made;
  };
  mutable std::mutex mutex_;
  mutable std::vector<Entry> entries_;
  mutable size_t oldest_ = 0;
};

}  // namespace nested_sparse
