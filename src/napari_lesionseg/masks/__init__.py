"""Operations on label images: morphology, instances, measurements."""
