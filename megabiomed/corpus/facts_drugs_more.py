"""Medicines against infection, cancer and inflammation; the columns are those of `facts_drugs`."""

from __future__ import annotations

MORE_DRUGS = """
benzylpenicillin|C16H18N2O4S|beta-lactam antibiotic|to treat syphilis|CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)O
ampicillin|C16H19N3O4S|beta-lactam antibiotic|to treat bacterial meningitis|\
CC1(C)SC2C(NC(=O)C(N)c3ccccc3)C(=O)N2C1C(=O)O
amoxicillin|C16H19N3O5S|beta-lactam antibiotic|to treat middle ear infection|\
CC1(C)SC2C(NC(=O)C(N)c3ccc(O)cc3)C(=O)N2C1C(=O)O
cefalexin|C16H17N3O4S|cephalosporin antibiotic|to treat skin infections|CC1=C(N2C(SC1)C(NC(=O)C(N)c1ccccc1)C2=O)C(=O)O
ciprofloxacin|C17H18FN3O3|fluoroquinolone antibiotic|to treat urinary tract infections|\
OC(=O)c1cn(C2CC2)c2cc(N3CCNCC3)c(F)cc2c1=O
levofloxacin|C18H20FN3O4|fluoroquinolone antibiotic|to treat pneumonia|CC1COc2c(N3CCN(C)CC3)c(F)cc3c2n1cc(C(=O)O)c3=O
nalidixic acid|C12H12N2O3|quinolone antibiotic|to treat urinary tract infections|CCn1cc(C(=O)O)c(=O)c2ccc(C)nc12
tetracycline|C22H24N2O8|tetracycline antibiotic|to treat acne|\
CN(C)C1C2CC3C(=C(O)c4c(O)cccc4C3(C)O)C(=O)C2(O)C(O)=C(C(N)=O)C1=O
chloramphenicol|C11H12Cl2N2O5|amphenicol antibiotic|to treat bacterial conjunctivitis|\
OCC(NC(=O)C(Cl)Cl)C(O)c1ccc(cc1)[N+](=O)[O-]
sulfamethoxazole|C10H11N3O3S|sulfonamide antibiotic|to treat urinary tract infections|Cc1cc(NS(=O)(=O)c2ccc(N)cc2)no1
trimethoprim|C14H18N4O3|dihydrofolate reductase inhibitor|to treat urinary tract infections|\
COc1cc(Cc2cnc(N)nc2N)cc(OC)c1OC
dapsone|C12H12N2O2S|sulfone antibiotic|to treat leprosy|Nc1ccc(cc1)S(=O)(=O)c1ccc(N)cc1
isoniazid|C6H7N3O|antituberculosis drug|to treat tuberculosis|NNC(=O)c1ccncc1
pyrazinamide|C5H5N3O|antituberculosis drug|to treat tuberculosis|NC(=O)c1cnccn1
ethambutol|C10H24N2O2|antituberculosis drug|to treat tuberculosis|CCC(CO)NCCNC(CC)CO
metronidazole|C6H9N3O3|nitroimidazole antibiotic|to treat anaerobic infections|Cc1ncc([N+](=O)[O-])n1CCO
nitrofurantoin|C8H6N4O5|nitrofuran antibiotic|to treat urinary tract infections|O=C1CN(N=Cc2ccc(o2)[N+](=O)[O-])C(=O)N1
linezolid|C16H20FN3O4|oxazolidinone antibiotic|to treat resistant Gram-positive infections|\
CC(=O)NCC1CN(C(=O)O1)c1ccc(N2CCOCC2)c(F)c1
fluconazole|C13H12F2N6O|triazole antifungal|to treat candidiasis|OC(Cn1cncn1)(Cn1cncn1)c1ccc(F)cc1F
clotrimazole|C22H17ClN2|imidazole antifungal|to treat athlete's foot|Clc1ccccc1C(c1ccccc1)(c1ccccc1)n1ccnc1
terbinafine|C21H25N|allylamine antifungal|to treat fungal nail infection|CN(CC=CC#CC(C)(C)C)Cc1cccc2ccccc12
griseofulvin|C17H17ClO6|antifungal|to treat ringworm|COC1=CC(=O)CC(C)C12Oc1c(Cl)c(OC)cc(OC)c1C2=O
flucytosine|C4H4FN3O|pyrimidine antifungal|to treat cryptococcal meningitis|Nc1[nH]c(=O)ncc1F
chloroquine|C18H26ClN3|antimalarial|to treat malaria|CCN(CC)CCCC(C)Nc1ccnc2cc(Cl)ccc12
quinine|C20H24N2O2|antimalarial|to treat malaria|COc1ccc2nccc(C(O)C3CC4CCN3CC4C=C)c2c1
primaquine|C15H21N3O|antimalarial|to prevent relapse of vivax malaria|COc1cc(NC(C)CCCN)c2ncccc2c1
pyrimethamine|C12H13ClN4|dihydrofolate reductase inhibitor|to treat toxoplasmosis|CCc1nc(N)nc(N)c1-c1ccc(Cl)cc1
artemisinin|C15H22O5|antimalarial|in combinations to treat malaria|CC1CCC2C(C)C(=O)OC3OC4(C)CCC1C23OO4
albendazole|C12H15N3O2S|anthelmintic|to treat roundworm infection|CCCSc1ccc2[nH]c(NC(=O)OC)nc2c1
mebendazole|C16H13N3O3|anthelmintic|to treat pinworm infection|COC(=O)Nc1nc2cc(ccc2[nH]1)C(=O)c1ccccc1
praziquantel|C19H24N2O2|anthelmintic|to treat schistosomiasis|O=C(C1CCCCC1)N1CC2N(CCc3ccccc23)C(=O)C1
aciclovir|C8H11N5O3|nucleoside antiviral|to treat herpes simplex|Nc1nc2n(COCCO)cnc2c(=O)[nH]1
ganciclovir|C9H13N5O4|nucleoside antiviral|to treat cytomegalovirus infection|Nc1nc2n(COC(CO)CO)cnc2c(=O)[nH]1
zidovudine|C10H13N5O4|nucleoside reverse transcriptase inhibitor|to treat HIV infection|\
Cc1cn(C2CC(N=[N+]=[N-])C(CO)O2)c(=O)[nH]c1=O
lamivudine|C8H11N3O3S|nucleoside reverse transcriptase inhibitor|to treat HIV infection|Nc1ccn(C2CSC(CO)O2)c(=O)n1
nevirapine|C15H14N4O|non-nucleoside reverse transcriptase inhibitor|to treat HIV infection|\
Cc1ccnc2N(C3CC3)c3ncccc3C(=O)Nc12
ribavirin|C8H12N4O5|nucleoside antiviral|with interferon to treat hepatitis C|NC(=O)c1ncn(n1)C1OC(CO)C(O)C1O
oseltamivir|C16H28N2O4|neuraminidase inhibitor|to treat influenza|CCOC(=O)C1=CC(OC(CC)CC)C(NC(C)=O)C(N)C1
favipiravir|C5H4FN3O2|RNA polymerase inhibitor|to treat influenza|NC(=O)c1nc(F)c[nH]c1=O
methotrexate|C20H22N8O5|dihydrofolate reductase inhibitor|to treat leukaemia and rheumatoid arthritis|\
CN(Cc1cnc2nc(N)nc(N)c2n1)c1ccc(cc1)C(=O)NC(CCC(=O)O)C(=O)O
fluorouracil|C4H3FN2O2|pyrimidine antimetabolite|to treat colorectal cancer|O=c1[nH]cc(F)c(=O)[nH]1
mercaptopurine|C5H4N4S|purine antimetabolite|to treat acute lymphoblastic leukaemia|S=c1[nH]cnc2nc[nH]c12
cytarabine|C9H13N3O5|pyrimidine antimetabolite|to treat acute myeloid leukaemia|Nc1ccn(C2OC(CO)C(O)C2O)c(=O)n1
gemcitabine|C9H11F2N3O4|pyrimidine antimetabolite|to treat pancreatic cancer|Nc1ccn(C2OC(CO)C(O)C2(F)F)c(=O)n1
cyclophosphamide|C7H15Cl2N2O2P|alkylating agent|to treat lymphoma|ClCCN(CCCl)P1(=O)NCCCO1
chlorambucil|C14H19Cl2NO2|alkylating agent|to treat chronic lymphocytic leukaemia|OC(=O)CCCc1ccc(cc1)N(CCCl)CCCl
temozolomide|C6H6N6O2|alkylating agent|to treat glioblastoma|Cn1nnc2c(C(N)=O)ncn2c1=O
hydroxycarbamide|CH4N2O2|ribonucleotide reductase inhibitor|to treat sickle cell disease|NC(=O)NO
tamoxifen|C26H29NO|selective oestrogen receptor modulator|to treat breast cancer|\
CCC(=C(c1ccccc1)c1ccc(OCCN(C)C)cc1)c1ccccc1
anastrozole|C17H19N5|aromatase inhibitor|to treat breast cancer|CC(C)(C#N)c1cc(Cn2cncn2)cc(c1)C(C)(C)C#N
bicalutamide|C18H14F4N2O4S|androgen receptor antagonist|to treat prostate cancer|\
CC(O)(CS(=O)(=O)c1ccc(F)cc1)C(=O)Nc1ccc(C#N)c(c1)C(F)(F)F
imatinib|C29H31N7O|tyrosine kinase inhibitor|to treat chronic myeloid leukaemia|\
Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(n1)-c1cccnc1
gefitinib|C22H24ClFN4O3|tyrosine kinase inhibitor|to treat non-small cell lung cancer|\
COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1
erlotinib|C22H23N3O4|tyrosine kinase inhibitor|to treat non-small cell lung cancer|\
COCCOc1cc2ncnc(Nc3cccc(c3)C#C)c2cc1OCCOC
sorafenib|C21H16ClF3N4O3|kinase inhibitor|to treat hepatocellular carcinoma|\
CNC(=O)c1cc(Oc2ccc(NC(=O)Nc3ccc(Cl)c(c3)C(F)(F)F)cc2)ccn1
thalidomide|C13H10N2O4|immunomodulator|to treat multiple myeloma|O=C1CCC(N2C(=O)c3ccccc3C2=O)C(=O)N1
azathioprine|C9H7N7O2S|purine antimetabolite|to prevent rejection of transplants|Cn1cnc(c1Sc1ncnc2nc[nH]c12)[N+](=O)[O-]
leflunomide|C12H9F3N2O2|dihydroorotate dehydrogenase inhibitor|to treat rheumatoid arthritis|\
Cc1oncc1C(=O)Nc1ccc(cc1)C(F)(F)F
dexamethasone|C22H29FO5|glucocorticoid|to treat inflammation|CC1CC2C3CCC4=CC(=O)C=CC4(C)C3(F)C(O)CC2(C)C1(O)C(=O)CO
prednisolone|C21H28O5|glucocorticoid|to treat inflammation|CC12CC(O)C3C(CCC4=CC(=O)C=CC34C)C1CCC2(O)C(=O)CO
levonorgestrel|C21H28O2|progestogen|in emergency contraception|CCC12CCC3C(CCC4=CC(=O)CCC34)C1CCC2(O)C#C
ethinylestradiol|C20H24O2|oestrogen|in oral contraceptives|CC12CCC3c4ccc(O)cc4CCC3C1CCC2(O)C#C
propylthiouracil|C7H10N2OS|thioamide|to treat hyperthyroidism|CCCc1cc(=O)[nH]c(=S)[nH]1
thiamazole|C4H6N2S|thioamide|to treat hyperthyroidism|Cn1cc[nH]c1=S
disulfiram|C10H20N2S4|aldehyde dehydrogenase inhibitor|to treat alcohol dependence|CCN(CC)C(=S)SSC(=S)N(CC)CC
acetylcysteine|C5H9NO3S|antidote|to treat paracetamol overdose|CC(=O)NC(CS)C(=O)O
penicillamine|C5H11NO2S|chelating agent|to treat Wilson disease|CC(C)(S)C(N)C(=O)O
mannitol|C6H14O6|osmotic diuretic|to lower raised intracranial pressure|OCC(O)C(O)C(O)C(O)CO
"""
