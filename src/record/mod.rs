//! Record batch format v2.
